//! The node's pod network: a bridge whose address is the first of the podCIDR, and a veth pair per pod.
//!
//! A pod's network is deleted by closing its namespace, never by deleting the veth: the kernel does it in the background,
//! while an explicit delete takes 40 ms under a lock that stalls everybody. Packets between bridges of one machine are
//! routed; what leaves for anywhere else is masqueraded where `nft` is available.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt as _;

use super::error::RuntimeError;
use super::ipam::{Ipam, Network};
use super::netlink::Netlink;
use super::protocol::Address;

/// The pod's end of its veth pair.
pub(super) const POD_INTERFACE: &str = "eth0";

#[derive(Debug)]
pub(super) struct NodeNetwork {
    bridge: String,
    ipam: Mutex<Option<Ipam>>,
    /// In use according to journals read before the network was known.
    early: Mutex<Vec<Ipv4Addr>>,
    started: std::time::Instant,
}

impl NodeNetwork {
    pub(super) fn new(bridge: &str) -> Self {
        #[allow(clippy::disallowed_methods)]
        let started = std::time::Instant::now();
        Self { bridge: bridge.to_owned(), ipam: Mutex::new(None), early: Mutex::new(Vec::new()), started }
    }

    /// Makes the bridge. Returns what could not be done.
    pub(super) async fn set_up(&self, pod_cidr: &str, pod_network: Option<&str>) -> Result<Vec<String>, RuntimeError> {
        let network = Network::parse(pod_cidr).ok_or_else(|| {
            RuntimeError::InvalidPlan(format!("podCIDR {pod_cidr:?} is not an IPv4 network up to /30"))
        })?;
        if let Some(ipam) = self.ipam.lock().as_ref() {
            return match ipam.network == network {
                true => Ok(Vec::new()),
                false => Err(RuntimeError::InvalidPlan(format!("the podCIDR is {} already", ipam.network))),
            };
        }
        make_bridge(&self.bridge, network).map_err(RuntimeError::io(format!("bridge {}", self.bridge)))?;
        let mut warnings = Vec::new();
        if let Err(error) = std::fs::write("/proc/sys/net/ipv4/ip_forward", "1") {
            warnings.push(format!("network: cannot switch on IPv4 forwarding ({error}): pods reach only this node"));
        }
        if let Err(error) = masquerade(&self.bridge, network, pod_network).await {
            warnings
                .push(format!("network: no masquerading ({error}): pods reach only networks that route back to them"));
        }
        let mut ipam = Ipam::new(network);
        self.early.lock().drain(..).for_each(|address| ipam.reserve(address));
        *self.ipam.lock() = Some(ipam);
        Ok(warnings)
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    pub(super) fn allocate(&self) -> Result<Address, RuntimeError> {
        let mut ipam = self.ipam.lock();
        let ipam = ipam.as_mut().ok_or(RuntimeError::NetworkNotReady)?;
        let network = ipam.network;
        let address = ipam.allocate(self.now()).ok_or_else(|| RuntimeError::NoFreeAddress(network.to_string()))?;
        Ok(Address {
            address: IpAddr::V4(address),
            prefix_length: network.prefix_length,
            gateway: IpAddr::V4(network.gateway()),
        })
    }

    /// A recovered pod has this address.
    pub(super) fn reserve(&self, address: IpAddr) {
        let IpAddr::V4(address) = address else { return };
        match self.ipam.lock().as_mut() {
            Some(ipam) => ipam.reserve(address),
            None => self.early.lock().push(address),
        }
    }

    pub(super) fn release(&self, address: IpAddr) {
        let IpAddr::V4(address) = address else { return };
        self.early.lock().retain(|early| *early != address);
        let now = self.now();
        if let Some(ipam) = self.ipam.lock().as_mut() {
            ipam.release(address, now);
        }
    }

    /// A veth pair between the bridge and the network namespace of the shim. Blocks for about a millisecond.
    pub(super) fn connect(&self, pod_uid: &str, shim_pid: u32) -> io::Result<()> {
        let namespace = std::fs::File::open(format!("/proc/{shim_pid}/ns/net"))?;
        let mut netlink = Netlink::open()?;
        let bridge =
            netlink.index(&self.bridge)?.ok_or_else(|| io::Error::other(format!("no bridge {}", self.bridge)))?;
        let name = interface_name(&self.bridge, pod_uid);
        match netlink.create_veth(&name, bridge, POD_INTERFACE, std::os::fd::AsFd::as_fd(&namespace)) {
            // The network of an earlier sandbox of the same pod is still on its way out.
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {
                let old = netlink.index(&name)?.ok_or(error)?;
                netlink.delete_link(old)?;
                netlink.create_veth(&name, bridge, POD_INTERFACE, std::os::fd::AsFd::as_fd(&namespace))?;
            }
            result => result?,
        }
        let index = netlink.index(&name)?.ok_or_else(|| io::Error::other(format!("{name} vanished")))?;
        netlink.set_up(index)
    }

    /// Deletes the bridge and its rules: nothing of the node's pod network stays.
    pub(super) async fn tear_down(&self) -> io::Result<()> {
        let _ = nft(&format!("delete table ip {}\n", table_name(&self.bridge))).await;
        let mut netlink = Netlink::open()?;
        match netlink.index(&self.bridge)? {
            Some(index) => netlink.delete_link(index),
            None => Ok(()),
        }
    }
}

fn make_bridge(name: &str, network: Network) -> io::Result<()> {
    let mut netlink = Netlink::open()?;
    match netlink.create_bridge(name, bridge_mac(name)) {
        Err(error) if error.raw_os_error() != Some(libc::EEXIST) => return Err(error),
        _ => {}
    }
    let index = netlink.index(name)?.ok_or_else(|| io::Error::other("the bridge vanished"))?;
    netlink.add_address(index, IpAddr::V4(network.gateway()), network.prefix_length)?;
    netlink.set_up(index)
}

/// Locally administered, the same for the same name.
fn bridge_mac(name: &str) -> [u8; 6] {
    let hash = Sha256::digest(name.as_bytes());
    [0x02, hash[0], hash[1], hash[2], hash[3], hash[4]]
}

/// The node's end: at most 15 bytes, unique by pod and agent.
fn interface_name(bridge: &str, pod_uid: &str) -> String {
    let hash = Sha256::new().chain_update(bridge).chain_update([0]).chain_update(pod_uid).finalize();
    let hexadecimal: String = hash[..6].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("kp{hexadecimal}")
}

fn table_name(bridge: &str) -> String {
    let plain = |character: char| if character.is_ascii_alphanumeric() { character } else { '_' };
    format!("kontiki_{}", bridge.chars().map(plain).collect::<String>())
}

async fn masquerade(bridge: &str, network: Network, pod_network: Option<&str>) -> io::Result<()> {
    let table = table_name(bridge);
    let own = network.to_string();
    let inside = pod_network.unwrap_or(&own);
    if Network::parse(inside).is_none() {
        return Err(io::Error::other(format!("{inside:?} is not a network")));
    }
    nft(&format!(
        "table ip {table}\ndelete table ip {table}\ntable ip {table} {{\n  chain postrouting {{\n    \
         type nat hook postrouting priority 100; policy accept;\n    \
         ip saddr {own} ip daddr != {inside} oifname != \"{bridge}\" masquerade\n  }}\n}}\n"
    ))
    .await
}

async fn nft(script: &str) -> io::Result<()> {
    let mut command = tokio::process::Command::new("nft");
    command.args(["-f", "-"]).stdin(std::process::Stdio::piped());
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::piped());
    let mut child = command.spawn().map_err(|error| io::Error::other(format!("nft: {error}")))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(script.as_bytes()).await?;
    }
    let output = child.wait_with_output().await?;
    match output.status.success() {
        true => Ok(()),
        false => Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interface_names_fit_and_differ_by_agent() {
        let name = interface_name("br-1", "uid");
        assert!(name.len() <= 15);
        assert_ne!(name, interface_name("br-2", "uid"));
    }
}
