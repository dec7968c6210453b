//! What a capability call returns: a future that is either ready at once or boxed.
//!
//! The traits are object-safe, so their futures cannot be plain `async fn`. A driver that answers from memory
//! pays for no allocation; one that waits boxes its future once.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::future::BoxFuture;

/// The answer to a capability call. Awaiting it more than once panics, like any future.
#[must_use = "nothing happens until the answer is awaited"]
pub struct Answer<'a, T>(Inner<'a, T>);

enum Inner<'a, T> {
    Ready(Option<T>),
    Boxed(BoxFuture<'a, T>),
}

impl<T> Unpin for Answer<'_, T> {}

impl<'a, T> Answer<'a, T> {
    /// An answer that is there already.
    pub fn ready(value: T) -> Answer<'a, T> {
        Answer(Inner::Ready(Some(value)))
    }

    /// An answer that has to be waited for.
    pub fn later<F: Future<Output = T> + Send + 'a>(future: F) -> Answer<'a, T> {
        Answer(Inner::Boxed(Box::pin(future)))
    }
}

impl<T> Future for Answer<'_, T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        match &mut self.get_mut().0 {
            Inner::Ready(value) => Poll::Ready(value.take().expect("an answer is awaited once")),
            Inner::Boxed(future) => future.as_mut().poll(cx),
        }
    }
}
