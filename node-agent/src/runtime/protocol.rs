//! What the agent and a shim say to each other: JSON frames behind a 4-byte big-endian length.
//!
//! A shim keeps running the program it was started with, so an agent must understand the shims of the version before it:
//! fields are only added, with defaults, and [`VERSION`] changes when that is not enough. Requests carry a number that
//! the reply repeats; exits are told without being asked, until they are acknowledged.

use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::error::StartError;
use super::journal::Snapshot;
use super::limits::FRAME_SIZE_MAX;
use super::plan::{ContainerKey, ContainerPlan, Exit, SandboxPlan, Started};

pub(super) const VERSION: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Request {
    pub(super) number: u64,
    pub(super) call: Call,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Call {
    /// First on every connection.
    Hello {
        version: u32,
    },
    CreateSandbox(Box<CreateSandbox>),
    /// The veth is in the shim's network namespace: give it its address.
    ConfigureNetwork(Address),
    StartContainer(Box<ContainerPlan>),
    Signal {
        container: String,
        signal: i32,
    },
    Stop {
        container: String,
        grace_ms: u64,
    },
    Kill {
        container: String,
    },
    RemoveContainer {
        container: ContainerKey,
    },
    Acknowledge {
        container: ContainerKey,
    },
    /// Kill everything, answer, exit.
    RemoveSandbox,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct CreateSandbox {
    pub(super) plan: SandboxPlan,
    /// `run_dir/pods/<uid>`: the journal, mount points.
    pub(super) state_dir: PathBuf,
    pub(super) cgroup_parent: PathBuf,
    pub(super) address: Option<Address>,
}

/// Of the pod's `eth0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Address {
    pub(super) address: IpAddr,
    pub(super) prefix_length: u8,
    pub(super) gateway: IpAddr,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Message {
    Reply { number: u64, answer: Answer },
    Exited { container: ContainerKey, exit: Exit },
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    Done,
    Hello {
        version: u32,
        pid: u32,
        snapshot: Box<Snapshot>,
    },
    /// With what could not be limited.
    SandboxCreated {
        warnings: Vec<String>,
    },
    Started(Started),
    NotStarted(StartError),
    NoContainer,
    Failed(String),
}

/// A message as bytes ready to be sent.
pub(super) fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    let body = serde_json::to_vec(message).expect("invariant: messages have string keys only");
    let length = u32::try_from(body.len()).expect("invariant: a message is far smaller than 4 GiB");
    let mut frame = Vec::with_capacity(body.len() + 4);
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&body);
    frame
}

#[derive(Debug, thiserror::Error)]
pub(super) enum FrameError {
    #[error("a frame of {0} bytes")]
    TooLarge(usize),
    #[error("not a message: {0}")]
    Malformed(#[from] serde_json::Error),
}

/// Takes the first whole message off `buffer`.
pub(super) fn decode<T: for<'de> Deserialize<'de>>(buffer: &mut Vec<u8>) -> Result<Option<T>, FrameError> {
    let Some(header) = buffer.first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_be_bytes(*header) as usize;
    if length > FRAME_SIZE_MAX {
        return Err(FrameError::TooLarge(length));
    }
    if buffer.len() < 4 + length {
        return Ok(None);
    }
    let message = serde_json::from_slice(&buffer[4..4 + length])?;
    buffer.drain(..4 + length);
    Ok(Some(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_decoded_wherever_the_reads_fall() {
        let frame = encode(&Request { number: 7, call: Call::Hello { version: 1 } });
        let mut buffer = Vec::new();
        for byte in &frame[..frame.len() - 1] {
            buffer.push(*byte);
            assert!(decode::<Request>(&mut buffer).unwrap().is_none());
        }
        buffer.extend([frame[frame.len() - 1], 0]);
        assert_eq!(decode::<Request>(&mut buffer).unwrap().unwrap().number, 7);
        assert_eq!(buffer, [0]);
    }

    #[test]
    fn a_huge_frame_is_refused() {
        let mut buffer = u32::MAX.to_be_bytes().to_vec();
        assert!(matches!(decode::<Request>(&mut buffer), Err(FrameError::TooLarge(_))));
    }
}
