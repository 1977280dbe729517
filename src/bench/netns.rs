//! A network whose links can be cut: each member in a linux namespace of its own, joined by a bridge in one more, from
//! which the benchmark asks.
//!
//! None of it has a name or a way to the machine's own network, so addresses cannot collide, and all of it ends with its
//! processes and descriptors, however the benchmark ends.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd as _, OwnedFd};

use anyhow::{Context, Result};
use kontiki_node_agent::runtime::{Netlink, unshare_network_of_thread};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

const PREFIX_LENGTH: u8 = 24;
const BRIDGE: &str = "bridge";
const BRIDGE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// The bridge; the thread that made it is beside it until it drops it.
pub struct Network {
    netlink: Netlink,
    bridge: u32,
    links: u8,
    _away: Away,
}

impl Network {
    pub fn enter() -> Result<Self> {
        Self::try_enter().context("cannot make a network of the benchmark's own")
    }

    fn try_enter() -> io::Result<Self> {
        let hub = new_namespace()?;
        let away = Away { home: current_namespace()? };
        enter(&hub)?;
        let mut netlink = Netlink::open()?;
        netlink.create_bridge(BRIDGE, BRIDGE_MAC)?;
        let bridge = netlink.index(BRIDGE)?.ok_or(io::ErrorKind::NotFound)?;
        netlink.add_address(bridge, IpAddr::V4(address(1)), PREFIX_LENGTH)?;
        netlink.set_up(bridge)?;
        Ok(Self { netlink, bridge, links: 0, _away: away })
    }

    /// A namespace for one more member.
    pub fn link(&mut self) -> Result<Link> {
        self.try_link().context("cannot make a network namespace for a member")
    }

    fn try_link(&mut self) -> io::Result<Link> {
        let (name, address) = (format!("m{}", self.links), address(self.links + 2));
        self.links += 1;
        let namespace = new_namespace()?;
        self.netlink.create_veth(&name, self.bridge, "eth0", namespace.as_fd())?;
        let port = self.netlink.index(&name)?.ok_or(io::ErrorKind::NotFound)?;
        self.netlink.set_up(port)?;
        let link = Link { namespace, port, address };
        link.inside(|| {
            let mut netlink = Netlink::open()?;
            let index = |name| netlink.index(name)?.ok_or(io::Error::from(io::ErrorKind::NotFound));
            let (own, loopback) = (index("eth0")?, index("lo")?);
            netlink.add_address(own, IpAddr::V4(address), PREFIX_LENGTH)?;
            netlink.set_up(own)?;
            // A member may also ask itself.
            netlink.set_up(loopback)
        })?;
        Ok(link)
    }
}

fn address(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, host)
}

/// A member's namespace, and the end of its cable at the bridge.
pub struct Link {
    namespace: OwnedFd,
    port: u32,
    pub address: Ipv4Addr,
}

impl Link {
    /// Packets are lost in both directions, and nobody is told.
    pub fn cut(&self) -> Result<()> {
        self.at_bridge(|netlink| netlink.set_down(self.port)).context("cannot cut a link")
    }

    pub fn mend(&self) -> Result<()> {
        self.at_bridge(|netlink| netlink.set_up(self.port)).context("cannot mend a link")
    }

    /// From the thread that is beside the bridge.
    fn at_bridge(&self, change: impl FnOnce(&mut Netlink) -> io::Result<()>) -> io::Result<()> {
        change(&mut Netlink::open()?)
    }

    /// Does something in the member's namespace.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        aside(|| {
            enter(&self.namespace)?;
            work()
        })
    }
}

/// Brings the thread back where it came from.
struct Away {
    home: OwnedFd,
}

impl Drop for Away {
    fn drop(&mut self) {
        enter(&self.home).expect("a thread can go back to the namespace it came from");
    }
}

fn new_namespace() -> io::Result<OwnedFd> {
    aside(|| {
        unshare_network_of_thread()?;
        current_namespace()
    })
}

fn current_namespace() -> io::Result<OwnedFd> {
    Ok(File::open("/proc/thread-self/ns/net")?.into())
}

fn enter(namespace: &OwnedFd) -> io::Result<()> {
    Ok(move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?)
}

/// On a thread that ends with the work, so that this one stays in its namespace whatever happens.
fn aside<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| scope.spawn(work).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
}
