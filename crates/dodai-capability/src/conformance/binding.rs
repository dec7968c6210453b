//! The suites for bindings: what all have in common, whatever they are about.

use std::time::Duration;

use futures_util::future::join_all;

use super::{Bench, soon};
use crate::binding::{Events, Output, Request, Response};
use crate::component::Component;

/// Requests that are made at once.
const AT_ONCE: usize = 16;

/// Runs every case against an output binding, with a request for each of its operations, in an order in which each can
/// be done; the first can be done again.
pub async fn output(component: &Component, requests: &[Request]) {
    let output = component.serves.output.clone().expect("the component is an output binding");
    each_operation_is_there(&*output, requests).await;
    others_are_refused(&*output).await;
    many_are_done_at_once(&*output, &requests[0]).await;
    what_is_given_up_harms_nothing(&*output, &requests[0]).await;
}

async fn done(output: &dyn Output, request: &Request) -> Response {
    let response = soon(&request.operation, output.invoke(request.clone())).await;
    response.unwrap_or_else(|error| panic!("{}: {error}", request.operation))
}

async fn each_operation_is_there(output: &dyn Output, requests: &[Request]) {
    let operations = output.operations();
    let tried: Vec<&str> = requests.iter().map(|request| request.operation.as_str()).collect();
    assert_eq!(tried, operations, "the suite is given a request for each operation");
    for request in requests {
        done(output, request).await;
    }
}

async fn others_are_refused(output: &dyn Output) {
    for given in ["no-such-operation", ""] {
        let request = Request { operation: given.to_owned(), ..Request::default() };
        let error = output.invoke(request).await.expect_err(given);
        assert_eq!(error.code(), "binding_unknown_operation", "`{given}`: {error}");
        for known in output.operations() {
            assert!(error.to_string().contains(known), "{known} in {error}");
        }
    }
}

async fn many_are_done_at_once(output: &dyn Output, request: &Request) {
    join_all((0..AT_ONCE).map(|_| done(output, request))).await;
}

async fn what_is_given_up_harms_nothing(output: &dyn Output, request: &Request) {
    for _ in 0..AT_ONCE {
        // It is begun at most.
        let _given_up = tokio::time::timeout(Duration::ZERO, output.invoke(request.clone())).await;
    }
    done(output, request).await;
}

/// Runs every case against an input binding of which an event happens whenever that much time has passed.
pub async fn input(bench: &mut Bench, every: Duration) {
    every_reader_hears(bench, every).await;
    a_wait_that_is_given_up_loses_nothing(bench, every).await;
    readers_end_with_the_component(bench).await;
    let mut events = read(bench).await;
    hears(bench, &mut [&mut events], every).await;
}

async fn read(bench: &Bench) -> Events {
    let input = bench.component.serves.input.clone().expect("the component is an input binding");
    input.read().await.expect("it is read")
}

/// Lets an event happen, of which all of these hear.
async fn hears(bench: &Bench, readers: &mut [&mut Events], every: Duration) {
    let happens = async {
        // Those who wait are there first.
        tokio::task::yield_now().await;
        (bench.advance)(every).await;
    };
    let hear = join_all(readers.iter_mut().map(|reader| soon("an event", reader.next())));
    let (heard, ()) = tokio::join!(hear, happens);
    assert!(heard.iter().all(Option::is_some), "{heard:?}");
}

async fn every_reader_hears(bench: &Bench, every: Duration) {
    let (mut one, mut two) = (read(bench).await, read(bench).await);
    hears(bench, &mut [&mut one, &mut two], every).await;
    drop(one);
    hears(bench, &mut [&mut two], every).await;
}

async fn a_wait_that_is_given_up_loses_nothing(bench: &Bench, every: Duration) {
    let mut events = read(bench).await;
    for _ in 0..3 {
        let given_up = tokio::time::timeout(Duration::ZERO, events.next()).await;
        assert!(given_up.is_err(), "nothing has happened: {given_up:?}");
    }
    hears(bench, &mut [&mut events], every).await;
}

async fn readers_end_with_the_component(bench: &mut Bench) {
    let mut before = read(bench).await;
    let (end, ()) = tokio::join!(soon("the end", before.next()), bench.component.close());
    assert_eq!(end, None);
    assert_eq!(soon("the end", before.next()).await, None, "and so it stays");
    let input = bench.component.serves.input.clone().expect("an input binding");
    if let Ok(mut late) = input.read().await {
        assert_eq!(soon("the end of a late reader", late.next()).await, None);
    }
    bench.restart().await;
}
