//! What can be measured.

use std::fmt;
use std::fmt::Write as _;

use anyhow::{Result, bail};

use super::failover::Fault;

/// A load and how many clients put it on, unless they are told otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    pub kind: Kind,
    pub clients: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Put,
    /// A Kubernetes update: put if the key was not changed since, else get it.
    Txn,
    Get,
    GetSerializable,
    /// All of so many keys in one answer.
    Range(u32),
    LeaseGrant,
    LeaseKeepAlive,
    /// What the parts of a Kubernetes cluster ask, by their shares.
    Mixed,
    /// Puts of one client while the clients of the load watch, and one in a hundred of them, or one, does not read.
    PutBesideSlowWatchers,
    /// From sending a put to the event at each of the clients, which are watchers here.
    WatchLatency,
    /// From sending a put to the event at the last of the clients.
    WatchFanOut,
    /// From opening a watch far back, 100 revisions for each client, to its last event, all clients at once.
    WatchResume,
    /// Many new keys, once.
    Fill,
    /// From starting a member again to its first linearizable read.
    Restart,
    /// Not a load: what clients see when the leader fails.
    Failover(Fault),
}

struct Named {
    name: &'static str,
    kind: Kind,
    clients: &'static [u32],
    about: &'static str,
}

const ALL: &[Named] = &[
    Named { name: "put", kind: Kind::Put, clients: &[1, 64, 256, 1000], about: "put a value under a random key" },
    Named {
        name: "txn",
        kind: Kind::Txn,
        clients: &[64],
        about: "update a key as Kubernetes does: put if it has the known revision, else get",
    },
    Named { name: "get", kind: Kind::Get, clients: &[64], about: "linearizable get of a random key" },
    Named {
        name: "get-serializable",
        kind: Kind::GetSerializable,
        clients: &[64],
        about: "get of a random key from the member that is asked",
    },
    Named {
        name: "mixed",
        kind: Kind::Mixed,
        clients: &[64],
        about: "of Kubernetes: 60 % updates, 20 % gets, 10 % pages of 500, 10 % creations and deletions",
    },
    Named { name: "range-1k", kind: Kind::Range(1_000), clients: &[1], about: "a range of 1,000 keys" },
    Named { name: "range-100k", kind: Kind::Range(100_000), clients: &[1], about: "a range of 100,000 keys" },
    Named { name: "lease-grant", kind: Kind::LeaseGrant, clients: &[64], about: "grant a lease" },
    Named {
        name: "lease-keep-alive",
        kind: Kind::LeaseKeepAlive,
        clients: &[64],
        about: "renew a lease on an open stream",
    },
    Named {
        name: "watch-latency",
        kind: Kind::WatchLatency,
        clients: &[1, 100, 1000],
        about: "put sent to event seen, at every watcher",
    },
    Named {
        name: "watch-fan-out",
        kind: Kind::WatchFanOut,
        clients: &[10_000],
        about: "put sent to event seen by the last watcher, 100 watchers a stream",
    },
    Named {
        name: "watch-slow",
        kind: Kind::PutBesideSlowWatchers,
        clients: &[100],
        about: "puts of 1 client while so many watch and 1 % of them never read",
    },
    Named {
        name: "watch-resume",
        kind: Kind::WatchResume,
        clients: &[1000],
        about: "watch opened 100 revisions a watcher back to its last event, all at once",
    },
    Named { name: "fill", kind: Kind::Fill, clients: &[64], about: "put as many new keys as --keys says, once" },
    Named {
        name: "restart",
        kind: Kind::Restart,
        clients: &[1],
        about: "a follower started again to its first linearizable read; after fill, with all those keys",
    },
    failover("leader-kill", Fault::Kill, "SIGKILL to the leader: the gap in acknowledged puts, and what is lost"),
    failover("leader-term", Fault::Term, "SIGTERM to the leader"),
    failover("leader-stop", Fault::Stop, "SIGSTOP to the leader"),
    failover(
        "leader-partition",
        Fault::Partition,
        "the leader's link is cut, each member in a network namespace; needs root",
    ),
    failover(
        "leader-disk",
        Fault::Disk,
        "the leader's disk stalls for three seconds, each member on its own; needs root",
    ),
];

const fn failover(name: &'static str, fault: Fault, about: &'static str) -> Named {
    Named { name, kind: Kind::Failover(fault), clients: &[1], about }
}

impl Kind {
    /// Whether it needs servers of its own, whose members share less than usual.
    pub fn needs_own_ground(self) -> bool {
        matches!(self, Self::Failover(fault) if fault.needs_own_ground())
    }

    fn named(self) -> &'static Named {
        ALL.iter().find(|named| named.kind == self).expect("every kind has a name")
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Failover(fault) => fault.fmt(f),
            kind => write!(f, "{}:{}", kind.named().name, self.clients),
        }
    }
}

/// The loads of a run, in order.
pub struct Loads(Vec<Load>);

impl Loads {
    /// Words such as `put` and `put:64`; none is all that is `possible`.
    ///
    /// # Errors
    /// When there is no such load.
    pub fn select(words: &[String], possible: impl Fn(Kind) -> bool) -> Result<Self> {
        let every =
            |named: &'static Named| named.clients.iter().map(|clients| Load { kind: named.kind, clients: *clients });
        if words.is_empty() {
            return Ok(Self(ALL.iter().filter(|named| possible(named.kind)).flat_map(every).collect()));
        }
        let mut loads = Vec::new();
        for word in words {
            let (name, clients) = word.split_once(':').map_or((&**word, None), |(name, clients)| (name, Some(clients)));
            let Some(named) = ALL.iter().find(|named| named.name == name) else {
                bail!("there is no load {name:?}; `kontiki bench --list` tells what there is");
            };
            match clients.map(str::parse) {
                None => loads.extend(every(named)),
                Some(Ok(clients)) if clients > 0 => loads.push(Load { kind: named.kind, clients }),
                Some(_) => bail!("{word}: the clients of a load are a number, as in {name}:64"),
            }
        }
        Ok(Self(loads))
    }

    pub fn iter(&self) -> impl Iterator<Item = &Load> {
        self.0.iter()
    }

    pub fn faults(&self) -> impl Iterator<Item = Fault> {
        self.iter().filter_map(|load| match load.kind {
            Kind::Failover(fault) => Some(fault),
            _ => None,
        })
    }
}

/// A line for each load.
pub fn list() -> String {
    let mut text = String::new();
    for Named { name, kind, clients, about } in ALL {
        let clients: Vec<String> = clients.iter().map(u32::to_string).collect();
        let _ = match kind {
            Kind::Failover(_) => writeln!(text, "{name:<18} {about}"),
            _ => writeln!(text, "{name:<18} {about} [clients: {}]", clients.join(", ")),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selected(words: &[&str]) -> Result<Vec<String>, String> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let loads = Loads::select(&words, |_| true).map_err(|error| error.to_string())?;
        Ok(loads.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn loads_are_named_with_or_without_clients() {
        assert_eq!(selected(&["txn", "put:3"]).unwrap(), ["txn:64", "put:3"]);
        assert_eq!(selected(&["put"]).unwrap(), ["put:1", "put:64", "put:256", "put:1000"]);
        assert!(selected(&[]).unwrap().len() > ALL.len());
        assert!(selected(&["nothing"]).unwrap_err().contains("there is no load \"nothing\""));
        assert!(selected(&["put:0"]).is_err() && selected(&["put:x"]).is_err());
    }
}
