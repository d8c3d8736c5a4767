//! Noise: random bytes and requests that are almost right, at every route. Each gets a documented answer, and the hub is
//! as well after it as before.

use central_hub::wire::route::{ROUTES, Route};
use futures_util::StreamExt as _;
use serde_json::{Map, Value, json};

use crate::ask::Hub;
use crate::bad_input::{example, subject_of, unharmed};

/// Seeds of the noise; a failure names its own.
const SEEDS: [u64; 3] = [1, 2, 3];

const REQUESTS_PER_ROUTE: usize = 100;

/// A value of any kind, small or at an edge.
fn any_value(random: &mut fastrand::Rng, depth: usize) -> Value {
    match random.u8(0..if depth == 0 { 9 } else { 11 }) {
        0 => Value::Null,
        1 => random.bool().into(),
        2 => random.i64(..).into(),
        3 => random.u64(..).into(),
        4 => random.i64(-2..70_000).into(),
        5 => f64::from_bits(random.u64(..)).into(),
        6 => ["", "a", "healthy", "down", "i", "a.b", "2999-01-01T00:00:00Z", ".", "true"][random.usize(..9)].into(),
        7 => (0..random.usize(0..20)).map(|_| random.char('\0'..)).collect::<String>().into(),
        8 => random.alphanumeric().to_string().repeat(random.usize(0..1_500)).into(),
        9 => (0..random.usize(0..4)).map(|_| any_value(random, depth - 1)).collect(),
        _ => (0..random.usize(0..4))
            .map(|_| (random.alphanumeric().to_string(), any_value(random, depth - 1)))
            .collect::<Map<_, _>>()
            .into(),
    }
}

/// A body that is more or less like one that the route takes.
fn any_body(random: &mut fastrand::Rng, route: &Route) -> Vec<u8> {
    if random.u8(..) < 20 {
        return (0..random.usize(0..300)).map(|_| random.u8(..)).collect();
    }
    let mut body = example(route);
    for _ in 0..random.usize(0..4) {
        match route.fields.get(random.usize(0..=route.fields.len())) {
            Some(field) if random.bool() => body.insert(field.name.to_owned(), any_value(random, 3)),
            Some(field) => body.remove(field.name),
            None => body.insert(random.alphanumeric().to_string(), any_value(random, 3)),
        };
    }
    let mut text = Value::Object(body).to_string().into_bytes();
    if random.bool() {
        for _ in 0..random.usize(1..4) {
            let at = random.usize(0..=text.len());
            match random.u8(0..4) {
                0 => text.truncate(at),
                1 => text.insert(at, *random.choice(b"{}[]\",:\\0-.eE\0\xff ").unwrap()),
                2 if at < text.len() => text[at] = random.u8(..),
                _ => text.extend_from_within(at..),
            }
        }
    }
    text
}

#[tokio::test]
async fn noise_gets_documented_answers_and_does_no_harm() {
    let mut hub = Hub::fresh().await;
    for seed in SEEDS {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut requests = Vec::new();
        for _ in 0..REQUESTS_PER_ROUTE {
            for route in ROUTES {
                let service = ["a", "b", "tick-aggregator", "a*", "\0", "é"][random.usize(..6)];
                requests.push((subject_of(route, service), any_body(&mut random, route)));
            }
        }
        let mut answers = futures_util::stream::iter(requests)
            .map(|(subject, body)| {
                let hub = &hub;
                async move { (hub.send(&subject, body.clone()).await, subject, body) }
            })
            .buffer_unordered(32);
        let (mut taken, mut refused) = (0, 0);
        while let Some((answer, subject, body)) = answers.next().await {
            let body = String::from_utf8_lossy(&body);
            match answer.result() {
                Ok(_) => taken += 1,
                Err(refusal) => {
                    let theirs = !matches!(refusal.code.as_str(), "internal" | "unavailable" | "overloaded");
                    assert!(theirs, "seed {seed}: {subject} {body:.2000} got {refusal:?}");
                    refused += 1;
                }
            }
        }
        assert!(taken > 100 && refused > 100, "noise of both kinds: {taken} taken, {refused} refused");
        drop(answers);
        unharmed(&mut hub).await;
    }
    // What it let in can be listed, to the end.
    let mut request = json!({"limit": 1000});
    for page in 0.. {
        assert!(page < 100, "it comes to an end");
        let Some(cursor) = hub.ask("services.list", &request).await.get("next_cursor").cloned() else { break };
        request["cursor"] = cursor;
    }
    for service in ["a", "b", "tick-aggregator"] {
        let _ = hub.send(&format!("config.get.{service}"), "").await.result();
    }
    unharmed(&mut hub).await;
}
