//! Who hears what became of a proposal.

use openraft::raft::responder::Responder;
use tokio::sync::oneshot;

use super::types::Types;

type Callback<T> = Box<dyn FnOnce(Option<T>) + Send>;

/// Told by Raft once a proposal was applied, or never will be.
pub enum Replier<T> {
    /// Somebody of this member waits.
    Waiting(oneshot::Sender<T>),
    /// Called on Raft's task: it must not block.
    Callback(Called<T>),
}

/// A callback that is called once in any case: with nothing when Raft lets go of it.
pub struct Called<T>(Option<Callback<T>>);

impl<T> Replier<T> {
    pub fn callback(callback: impl FnOnce(Option<T>) + Send + 'static) -> Self {
        Self::Callback(Called(Some(Box::new(callback))))
    }
}

impl<T: Send + 'static> Responder<Types, T> for Replier<T> {
    fn on_complete(self, result: T) {
        match self {
            // Whoever waited may have given up.
            Self::Waiting(sender) => drop(sender.send(result)),
            Self::Callback(mut called) => called.call(Some(result)),
        }
    }
}

impl<T> Called<T> {
    fn call(&mut self, result: Option<T>) {
        if let Some(callback) = self.0.take() {
            callback(result);
        }
    }
}

impl<T> Drop for Called<T> {
    fn drop(&mut self) {
        self.call(None);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_callback_is_called_exactly_once_even_when_it_is_let_go() {
        let (told, heard) = mpsc::channel();
        let replier = || {
            let told = told.clone();
            Replier::callback(move |result: Option<u8>| told.send(result).unwrap())
        };
        replier().on_complete(7);
        drop(replier());
        assert_eq!(heard.try_iter().collect::<Vec<_>>(), [Some(7), None]);
    }
}
