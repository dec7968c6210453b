use super::*;

fn broker(messages: u64, bytes: u64) -> Memory {
    Memory::new(Limits { messages, bytes, idle_group: Duration::from_secs(60) })
}

#[tokio::test(start_paused = true)]
async fn a_full_topic_tells_the_publisher_and_takes_again_after_an_ack() {
    let broker = broker(2, 1 << 20);
    let mut consumer = broker.subscribe(Subscribe::new("t", "g")).await.unwrap();
    broker.publish(Publish::new("t", "1")).await.unwrap();
    broker.publish(Publish::new("t", "2")).await.unwrap();
    let error = broker.publish(Publish::new("t", "3")).await.expect_err("full");
    assert_eq!(error.code(), "pubsub_topic_full");
    assert!(error.to_string().contains("topic `t` is full: group `g` has 2"), "{error}");
    broker.publish(Publish::new("other", "3")).await.expect("another topic has room");
    consumer.next().await.expect("open").unwrap().settle(Verdict::Ack).await.unwrap();
    broker.publish(Publish::new("t", "3")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn bytes_are_bounded_and_given_back_by_the_last_group() {
    let broker = broker(100, 2 * (OVERHEAD + 10));
    let mut one = broker.subscribe(Subscribe::new("t", "one")).await.unwrap();
    let mut two = broker.subscribe(Subscribe::new("t", "two")).await.unwrap();
    for _ in 0..2 {
        broker.publish(Publish::new("t", "0123456789")).await.unwrap();
    }
    assert_eq!(broker.publish(Publish::new("t", "")).await.expect_err("full").code(), "full");
    one.next().await.expect("open").unwrap().settle(Verdict::Ack).await.unwrap();
    assert!(broker.publish(Publish::new("t", "")).await.is_err(), "the other group still has it");
    two.next().await.expect("open").unwrap().settle(Verdict::Drop).await.unwrap();
    broker.publish(Publish::new("t", "")).await.unwrap();
    broker.forget("t", "one").await.unwrap();
    broker.forget("t", "two").await.unwrap();
    assert_eq!(broker.0.locked().bytes, 0);
}

#[tokio::test(start_paused = true)]
async fn a_group_without_members_is_forgotten_after_a_while() {
    let broker = broker(100, 1 << 20);
    drop(broker.subscribe(Subscribe::new("t", "g")).await.unwrap());
    broker.publish(Publish::new("t", "kept")).await.unwrap();
    assert_eq!(broker.standings().await.unwrap()[0].pending, 1);
    tokio::time::advance(Duration::from_secs(61)).await;
    broker.publish(Publish::new("t", "kept for whoever comes next")).await.unwrap();
    let standings = broker.standings().await.unwrap();
    assert_eq!((standings.len(), standings[0].group.as_str(), standings[0].pending), (1, NO_GROUP, 1));
    let mut next = broker.subscribe(Subscribe::new("t", "other")).await.unwrap();
    assert_eq!(next.next().await.expect("open").unwrap().message.data, "kept for whoever comes next");
}

#[tokio::test(start_paused = true)]
async fn what_nobody_waits_for_takes_no_room_from_others() {
    let broker = broker(100, OVERHEAD + 10);
    broker.publish(Publish::new("nobody", "0123456789")).await.unwrap();
    let _group = broker.subscribe(Subscribe::new("t", "g")).await.unwrap();
    broker.publish(Publish::new("t", "0123456789")).await.expect("nobody's message gave way");
    assert_eq!(broker.publish(Publish::new("t", "")).await.expect_err("full").code(), "full");
}

#[tokio::test(start_paused = true)]
async fn closing_ends_waiting_consumers() {
    let broker = broker(100, 1 << 20);
    let mut one = broker.subscribe(Subscribe::new("t", "g")).await.unwrap();
    let mut two = broker.subscribe(Subscribe::new("t", "g")).await.unwrap();
    let (a, b, ()) = tokio::join!(one.next(), two.next(), async {
        tokio::task::yield_now().await;
        broker.close().await;
    });
    assert!(a.is_none() && b.is_none());
    assert_eq!(broker.publish(Publish::new("t", "")).await.expect_err("closed").code(), "closed");
}

#[tokio::test(start_paused = true)]
async fn forgetting_a_group_ends_its_members_and_spares_a_new_group_of_that_name() {
    let broker = broker(100, 1 << 20);
    let mut old = broker.subscribe(Subscribe::new("t", "g")).await.unwrap();
    broker.forget("t", "g").await.unwrap();
    let mut new = broker.subscribe(Subscribe::new("t", "g")).await.unwrap();
    broker.publish(Publish::new("t", "1")).await.unwrap();
    assert!(old.next().await.is_none());
    drop(old);
    assert_eq!(new.next().await.expect("open").unwrap().message.data, "1");
}

#[tokio::test(start_paused = true)]
async fn a_move_takes_no_room_and_one_that_fails_leaves_everything_where_it_is() {
    let broker = broker(2, 4 * (OVERHEAD + 1));
    let _readers = broker.subscribe(Subscribe::new("full", "g")).await.unwrap();
    for (topic, data) in [("full", "1"), ("full", "2"), ("letters", "a"), ("letters", "b")] {
        broker.publish(Publish::new(topic, data)).await.unwrap();
    }
    let letters = async || {
        let (topic, group) = ("letters".to_owned(), NO_GROUP.to_owned());
        broker.peek(Peek { topic, group, after: None, limit: 9, most: 9 }).await.unwrap()
    };
    let before = letters().await;
    let replay = async |to: &str| {
        let (topic, group, id) = ("letters".to_owned(), NO_GROUP.to_owned(), before[0].message.id.clone());
        broker.replay(Replay { topic, group, id, to: to.to_owned() }).await
    };
    assert_eq!(replay("full").await.expect_err("no room").code(), "pubsub_topic_full");
    assert_eq!(letters().await.iter().map(|one| &one.message.data).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(replay("empty").await.unwrap(), Replayed::Moved, "the broker is full of what is moved");
    assert_eq!(letters().await.iter().map(|one| &one.message.data).collect::<Vec<_>>(), ["b"]);
    assert_eq!(broker.0.locked().bytes, 4 * (OVERHEAD + 1));
    // One that another group keeps needs room of its own, and finds none.
    let _other = broker.subscribe(Subscribe::new("full", "h")).await.unwrap();
    let mut first = broker.subscribe(Subscribe::new("full", "g")).await.unwrap();
    first.next().await.expect("open").unwrap().settle(Verdict::Ack).await.unwrap();
    broker.publish(Publish::new("full", "3")).await.unwrap();
    let shared = Peek { topic: "full".into(), group: "h".into(), after: None, limit: 1, most: 9 };
    let id = broker.peek(shared.clone()).await.unwrap()[0].message.id.clone();
    let [topic, group, to] = ["full", "h", "empty"].map(str::to_owned);
    assert_eq!(broker.replay(Replay { topic, group, id, to }).await.expect_err("no room").code(), "full");
    assert_eq!(broker.peek(shared).await.unwrap()[0].message.data, "3");
    assert_eq!((letters().await.len(), broker.0.locked().bytes), (1, 4 * (OVERHEAD + 1)));
}
