//! The node agent: runs the pods of one Linux machine.
//!
//! Read it in this order: [`pod`] (what must happen next, as pure functions), [`agent`] (the loop that does it), [`image`]
//! (from a reference to layer directories), [`runtime`] (namespaces, cgroups, processes, the shim). Everything that touches
//! the world is in [`io`], [`image`] stores and [`runtime`].

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests make the world they need"))]

pub mod agent;
pub mod image;
pub mod io;
pub mod limits;
pub mod pod;
pub mod runtime;
