//! What the members of a cluster stand on: one machine that they share, or parts of their own that can fail alone.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::disk::{self, Disk};
use super::failover::Fault;
use super::netns::{Link, Network};

pub enum Ground {
    Shared,
    Networks(Network),
    Disks,
}

/// Where one member is started.
pub struct Place {
    pub clients: SocketAddr,
    pub peers: SocketAddr,
    pub data_dir: PathBuf,
    pub link: Option<Link>,
    pub disk: Option<Disk>,
}

impl Ground {
    /// One on which this fault can happen to a member alone.
    pub fn for_fault(fault: Fault) -> Result<Self> {
        Ok(match fault {
            Fault::Kill | Fault::Term | Fault::Stop => Self::Shared,
            Fault::Partition => Self::Networks(Network::enter()?),
            Fault::Disk => {
                disk::keep_mounts_apart()?;
                Self::Disks
            }
        })
    }

    /// Places for so many members, with what they keep below `dir`.
    pub fn places(&mut self, dir: &Path, count: usize) -> Result<Vec<Place>> {
        let ports = match self {
            Self::Networks(_) => [2379, 2380].repeat(count),
            Self::Shared | Self::Disks => free_ports(2 * count).context("no free ports")?,
        };
        let place = |(number, ports): (usize, &[u16])| {
            let link = match self {
                Self::Networks(network) => Some(network.link()?),
                Self::Shared | Self::Disks => None,
            };
            let own = dir.join(format!("m{number}"));
            let disk = match self {
                Self::Disks => Some(Disk::mount(&own.with_extension("ext4"), &own)?),
                Self::Shared | Self::Networks(_) => None,
            };
            // etcd wants a directory to itself, and the root of a filesystem holds `lost+found`.
            let data_dir = if disk.is_some() { own.join("data") } else { own };
            let address = link.as_ref().map_or(Ipv4Addr::LOCALHOST, |link| link.address);
            let at = |port: u16| SocketAddr::from((address, port));
            Ok(Place { clients: at(ports[0]), peers: at(ports[1]), data_dir, link, disk })
        };
        ports.chunks(2).enumerate().map(place).collect()
    }
}

fn free_ports(count: usize) -> std::io::Result<Vec<u16>> {
    let listeners: Vec<TcpListener> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    listeners.iter().map(|listener| listener.local_addr().map(|address| address.port())).collect()
}
