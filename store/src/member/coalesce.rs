//! One question under way at a time: whoever asks meanwhile shares the next one.

use std::future::Future;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

/// Questions whose answer must not be older than the asking.
pub(super) struct Coalesced<T>(Mutex<State<T>>);

struct State<T> {
    waiting: Vec<oneshot::Sender<T>>,
    running: bool,
}

impl<T> Default for Coalesced<T> {
    fn default() -> Self {
        Self(Mutex::new(State { waiting: Vec::new(), running: false }))
    }
}

impl<T: Clone + Send + 'static> Coalesced<T> {
    /// The answer to a `question` that was put after this call; `None` when the tasks have ended.
    pub(super) async fn ask<Q, A>(self: &Arc<Self>, tasks: &TaskTracker, question: Q) -> Option<T>
    where
        Q: Fn() -> A + Send + 'static,
        A: Future<Output = T> + Send + 'static,
    {
        let (sender, answer) = oneshot::channel();
        let start = {
            let mut state = self.0.lock();
            state.waiting.push(sender);
            !std::mem::replace(&mut state.running, true)
        };
        if start {
            tasks.spawn(self.clone().run(question));
        }
        answer.await.ok()
    }

    async fn run<Q, A>(self: Arc<Self>, question: Q)
    where
        Q: Fn() -> A + Send + 'static,
        A: Future<Output = T> + Send + 'static,
    {
        loop {
            let waiting = {
                let mut state = self.0.lock();
                if state.waiting.is_empty() {
                    state.running = false;
                    return;
                }
                std::mem::take(&mut state.waiting)
            };
            let answer = question().await;
            for asked in waiting {
                // A client may have gone away meanwhile.
                let _ = asked.send(answer.clone());
            }
        }
    }
}
