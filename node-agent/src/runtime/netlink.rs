//! The few rtnetlink requests that pods need, written and answered synchronously.
//!
//! Used on both sides: by the agent for the bridge and the veth pairs, by the shim for the address inside its network
//! namespace; and by the benchmark that cuts a member off. A hundred lines of encoding instead of an asynchronous library, because the shim has no runtime and a socket
//! belongs to the namespace it was made in.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netdevice, recv, send, socket_with};

const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;

/// A route socket in the network namespace of the calling thread.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
    /// For the ioctls that know names.
    datagram: OwnedFd,
    sequence: u32,
}

impl Netlink {
    pub fn open() -> io::Result<Self> {
        // Protocol 0 is NETLINK_ROUTE.
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        let datagram = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        Ok(Self { socket, datagram, sequence: 0 })
    }

    /// The index of an interface, `None` when there is none of that name.
    pub fn index(&self, name: &str) -> io::Result<Option<u32>> {
        match netdevice::name_to_index(&self.datagram, name) {
            Ok(index) => Ok(Some(index)),
            Err(rustix::io::Errno::NODEV) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// `mac` is fixed because a bridge without one changes it with its ports, and neighbours lose it.
    pub fn create_bridge(&mut self, name: &str, mac: [u8; 6]) -> io::Result<()> {
        let mut request = Encoder::link(libc::RTM_NEWLINK, CREATE, 0, 0, 0);
        request.string(libc::IFLA_IFNAME, name);
        request.attribute(libc::IFLA_ADDRESS, &mac);
        request.nested(libc::IFLA_LINKINFO, |info| info.string(IFLA_INFO_KIND, "bridge"));
        self.exchange(request)
    }

    /// Both ends in one request: `name` here as a port of `bridge`, `peer_name` in the namespace `peer_namespace`. Neither is
    /// up: up in the same request, the kernel takes it all back, slowly.
    pub fn create_veth(
        &mut self,
        name: &str,
        bridge: u32,
        peer_name: &str,
        peer_namespace: BorrowedFd<'_>,
    ) -> io::Result<()> {
        let mut request = Encoder::link(libc::RTM_NEWLINK, CREATE, 0, 0, 0);
        request.string(libc::IFLA_IFNAME, name);
        request.attribute(libc::IFLA_MASTER, &bridge.to_ne_bytes());
        request.nested(libc::IFLA_LINKINFO, |info| {
            info.string(IFLA_INFO_KIND, "veth");
            info.nested(IFLA_INFO_DATA, |data| {
                data.nested(VETH_INFO_PEER, |peer| {
                    peer.raw(&[0; 16]);
                    peer.string(libc::IFLA_IFNAME, peer_name);
                    peer.attribute(libc::IFLA_NET_NS_FD, &peer_namespace.as_raw_fd().to_ne_bytes());
                });
            });
        });
        self.exchange(request)
    }

    pub fn set_up(&mut self, index: u32) -> io::Result<()> {
        let up = libc::IFF_UP.cast_unsigned();
        self.exchange(Encoder::link(libc::RTM_NEWLINK, 0, index, up, up))
    }

    /// What is sent over it from now on is lost without a word.
    pub fn set_down(&mut self, index: u32) -> io::Result<()> {
        self.exchange(Encoder::link(libc::RTM_NEWLINK, 0, index, 0, libc::IFF_UP.cast_unsigned()))
    }

    pub(super) fn delete_link(&mut self, index: u32) -> io::Result<()> {
        self.exchange(Encoder::link(libc::RTM_DELLINK, 0, index, 0, 0))
    }

    pub fn add_address(&mut self, index: u32, address: IpAddr, prefix_length: u8) -> io::Result<()> {
        let mut request = Encoder::new(libc::RTM_NEWADDR, CREATE_OR_REPLACE);
        request.raw(&[family(address), prefix_length, 0, 0]);
        request.raw(&index.to_ne_bytes());
        request.attribute(libc::IFA_LOCAL, &octets(address));
        request.attribute(libc::IFA_ADDRESS, &octets(address));
        self.exchange(request)
    }

    pub(super) fn add_default_route(&mut self, gateway: IpAddr) -> io::Result<()> {
        let mut request = Encoder::new(libc::RTM_NEWROUTE, CREATE_OR_REPLACE);
        let (table, protocol, scope, kind) =
            (libc::RT_TABLE_MAIN, libc::RTPROT_BOOT, libc::RT_SCOPE_UNIVERSE, libc::RTN_UNICAST);
        request.raw(&[family(gateway), 0, 0, 0, table, protocol, scope, kind]);
        request.raw(&0u32.to_ne_bytes());
        request.attribute(libc::RTA_GATEWAY, &octets(gateway));
        self.exchange(request)
    }

    /// Sends a request and waits for the kernel's acknowledgement.
    fn exchange(&mut self, request: Encoder) -> io::Result<()> {
        self.sequence += 1;
        let bytes = request.finish(self.sequence);
        send(&self.socket, &bytes, SendFlags::empty())?;
        loop {
            let mut buffer = [0u8; 8192];
            let (length, _) = recv(&self.socket, &mut buffer[..], RecvFlags::empty())?;
            if let Some(result) = acknowledgement(&buffer[..length], self.sequence) {
                return result;
            }
        }
    }
}

fn family(address: IpAddr) -> u8 {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    u8::try_from(family).expect("invariant: address families are small")
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The result in an `NLMSG_ERROR` with our number, whose error 0 means success.
fn acknowledgement(bytes: &[u8], sequence: u32) -> Option<io::Result<()>> {
    let field = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    if i32::from(kind) != libc::NLMSG_ERROR || field(8)? != sequence {
        return None;
    }
    match field(16)?.cast_signed() {
        0 => Some(Ok(())),
        error => Some(Err(io::Error::from_raw_os_error(-error))),
    }
}

const CREATE: i32 = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
const CREATE_OR_REPLACE: i32 = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;

/// A request under construction: header, then attributes, each padded to four bytes.
struct Encoder {
    bytes: Vec<u8>,
}

impl Encoder {
    fn new(kind: u16, flags: i32) -> Self {
        let flags = u16::try_from(libc::NLM_F_REQUEST | libc::NLM_F_ACK | flags).expect("invariant: flags are 16 bits");
        let mut bytes = vec![0; 16];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        Self { bytes }
    }

    /// With a `struct ifinfomsg`.
    fn link(kind: u16, flags: i32, index: u32, set: u32, change: u32) -> Self {
        let mut request = Self::new(kind, flags);
        request.raw(&[0; 4]);
        request.raw(&index.to_ne_bytes());
        request.raw(&set.to_ne_bytes());
        request.raw(&change.to_ne_bytes());
        request
    }

    fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn string(&mut self, kind: u16, value: &str) {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes);
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.nested(kind, |inner| inner.raw(value));
    }

    fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.raw(&[0; 2]);
        self.raw(&kind.to_ne_bytes());
        fill(self);
        let length = u16::try_from(self.bytes.len() - start).expect("invariant: our requests are small");
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self, sequence: u32) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len()).expect("invariant: our requests are small");
        self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_nest_and_are_padded() {
        let mut request = Encoder::new(libc::RTM_NEWLINK, 0);
        request.nested(18, |info| info.string(1, "veth"));
        let bytes = request.finish(1);
        assert_eq!(bytes.len(), 16 + 4 + 12);
        assert_eq!(bytes[16..20], [16, 0, 18, 0]);
        assert_eq!(bytes[20..29], *b"\x09\x00\x01\x00veth\0");
    }

    #[test]
    fn only_our_acknowledgement_counts() {
        let mut bytes = vec![0u8; 36];
        bytes[4..6].copy_from_slice(&2u16.to_ne_bytes());
        bytes[8..12].copy_from_slice(&7u32.to_ne_bytes());
        assert!(acknowledgement(&bytes, 6).is_none());
        assert!(acknowledgement(&bytes, 7).unwrap().is_ok());
        bytes[16..20].copy_from_slice(&(-libc::EEXIST).to_ne_bytes());
        assert_eq!(acknowledgement(&bytes, 7).unwrap().unwrap_err().raw_os_error(), Some(libc::EEXIST));
    }
}
