//! The shim's end of the connection to the agent: non-blocking, with what could not be sent yet.

use std::os::fd::OwnedFd;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;

use super::protocol::{Message, Request, decode, encode};

#[derive(Debug)]
pub(super) struct Session {
    socket: OwnedFd,
    inbox: Vec<u8>,
    outbox: Vec<u8>,
    /// Whether epoll has been asked to say when the socket takes more.
    waits_for_room: bool,
}

impl Session {
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self { socket, inbox: Vec::new(), outbox: Vec::new(), waits_for_room: false }
    }

    /// Collects whole requests; false when the agent is gone or talks nonsense.
    pub(super) fn read(&mut self, requests: &mut Vec<Request>) -> bool {
        let mut open = true;
        loop {
            let mut buffer = [0u8; 16 << 10];
            match rustix::io::read(&self.socket, &mut buffer) {
                Ok(0) => {
                    open = false;
                    break;
                }
                Ok(length) => self.inbox.extend_from_slice(&buffer[..length]),
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(_) => {
                    open = false;
                    break;
                }
            }
        }
        loop {
            match decode(&mut self.inbox) {
                Ok(Some(request)) => requests.push(request),
                Ok(None) => return open,
                Err(error) => {
                    eprintln!("shim: {error}");
                    return false;
                }
            }
        }
    }

    pub(super) fn queue(&mut self, message: &Message) {
        self.outbox.extend(encode(message));
    }

    /// Sends what the socket takes; false when the agent is gone.
    pub(super) fn flush(&mut self, epoll: &OwnedFd, token: u64) -> bool {
        while !self.outbox.is_empty() {
            match rustix::net::send(&self.socket, &self.outbox, rustix::net::SendFlags::NOSIGNAL) {
                Ok(length) => drop(self.outbox.drain(..length)),
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(_) => return false,
            }
        }
        let must_wait = !self.outbox.is_empty();
        if must_wait != self.waits_for_room {
            let flags = if must_wait { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN };
            if epoll::modify(epoll, &self.socket, EventData::new_u64(token), flags).is_err() {
                return false;
            }
            self.waits_for_room = must_wait;
        }
        true
    }
}
