//! Which addresses of the node's pod network are in use. Pure: the caller says what time it is.
//!
//! The first address is the bridge's. Addresses are given out round the range, and one that comes back rests for a while, so
//! that a late packet for a dead pod does not reach a new one. What is in use is not stored here: each shim's journal has
//! its pod's address, and the node's runtime reserves them again when it recovers.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use super::limits::ADDRESS_REUSE_DELAY;

/// An IPv4 network, e.g. `10.244.1.0/24`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Network {
    first: u32,
    pub(super) prefix_length: u8,
}

impl Network {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (address, length) = text.split_once('/')?;
        let address: Ipv4Addr = address.parse().ok()?;
        let prefix_length: u8 = length.parse().ok()?;
        // At least the gateway and one pod next to the network's and the broadcast address.
        if !(8..=30).contains(&prefix_length) {
            return None;
        }
        let mask = u32::MAX << (32 - prefix_length);
        Some(Self { first: address.to_bits() & mask, prefix_length })
    }

    /// The bridge's address, the first of the network.
    pub(super) fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.first + 1)
    }

    fn size(self) -> u32 {
        1 << (32 - self.prefix_length)
    }
}

impl std::fmt::Display for Network {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}/{}", Ipv4Addr::from_bits(self.first), self.prefix_length)
    }
}

#[derive(Debug, Clone)]
pub(super) struct Ipam {
    pub(super) network: Network,
    /// By offset in the network: `None` in use, or since when it rests.
    taken: BTreeMap<u32, Option<Duration>>,
    /// Where the next search starts.
    cursor: u32,
}

impl Ipam {
    pub(super) fn new(network: Network) -> Self {
        Self { network, taken: BTreeMap::new(), cursor: 2 }
    }

    /// The next free address; one that still rests only when there is no other.
    pub(super) fn allocate(&mut self, now: Duration) -> Option<Ipv4Addr> {
        let rested = |since: Duration| now.saturating_sub(since) >= ADDRESS_REUSE_DELAY;
        self.taken.retain(|_, resting| !resting.is_some_and(rested));
        let usable = 2..self.network.size() - 1;
        let offset = (self.cursor..usable.end)
            .chain(usable.start..self.cursor.min(usable.end))
            .find(|offset| !self.taken.contains_key(offset))
            .or_else(|| self.longest_resting())?;
        self.taken.insert(offset, None);
        self.cursor = offset + 1;
        Some(Ipv4Addr::from_bits(self.network.first + offset))
    }

    fn longest_resting(&self) -> Option<u32> {
        let resting = self.taken.iter().filter_map(|(offset, since)| Some((*since.as_ref()?, *offset)));
        resting.min().map(|(_, offset)| offset)
    }

    /// An address found in use.
    pub(super) fn reserve(&mut self, address: Ipv4Addr) {
        if let Some(offset) = self.offset(address) {
            self.taken.insert(offset, None);
            self.cursor = self.cursor.max(offset + 1);
        }
    }

    pub(super) fn release(&mut self, address: Ipv4Addr, now: Duration) {
        if let Some(offset) = self.offset(address) {
            self.taken.insert(offset, Some(now));
        }
    }

    fn offset(&self, address: Ipv4Addr) -> Option<u32> {
        address.to_bits().checked_sub(self.network.first).filter(|offset| *offset < self.network.size())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ipam(network: &str) -> Ipam {
        Ipam::new(Network::parse(network).unwrap())
    }

    #[test]
    fn the_gateway_is_never_given_out() {
        let mut ipam = ipam("10.1.2.0/29");
        assert_eq!(ipam.network.gateway(), Ipv4Addr::new(10, 1, 2, 1));
        let given: Vec<u8> =
            std::iter::from_fn(|| ipam.allocate(Duration::ZERO)).map(|address| address.octets()[3]).collect();
        assert_eq!(given, [2, 3, 4, 5, 6]);
    }

    #[test]
    fn an_address_rests_before_it_is_used_again() {
        let mut ipam = ipam("10.1.2.0/24");
        let first = ipam.allocate(Duration::ZERO).unwrap();
        ipam.release(first, Duration::ZERO);
        ipam.cursor = 2;
        assert_ne!(ipam.allocate(Duration::from_secs(1)), Some(first));
        ipam.cursor = 2;
        assert_eq!(ipam.allocate(ADDRESS_REUSE_DELAY), Some(first));
    }

    #[test]
    fn a_full_network_takes_the_longest_resting() {
        let mut ipam = ipam("10.1.2.0/30");
        let only = ipam.allocate(Duration::ZERO).unwrap();
        assert_eq!(ipam.allocate(Duration::ZERO), None);
        ipam.release(only, Duration::ZERO);
        assert_eq!(ipam.allocate(Duration::from_secs(1)), Some(only));
    }

    #[test]
    fn recovered_addresses_are_not_given_out() {
        let mut ipam = ipam("10.1.2.0/24");
        ipam.reserve(Ipv4Addr::new(10, 1, 2, 2));
        assert_eq!(ipam.allocate(Duration::ZERO), Some(Ipv4Addr::new(10, 1, 2, 3)));
    }

    #[test]
    fn nonsense_is_no_network() {
        for text in ["10.0.0.0", "10.0.0.0/31", "x/24", "fd00::/64"] {
            assert_eq!(Network::parse(text), None, "{text}");
        }
        assert_eq!(Network::parse("10.1.2.9/24").unwrap().to_string(), "10.1.2.0/24");
    }
}
