//! So many fall silent at once that it is hardly they who died: the hub holds them for a while, and says so.

use std::time::Duration;

use central_hub::client::HubClient;
use central_hub::domain::name::ServiceName;
use central_hub::wire::config::ConfigSet;
use serde_json::json;
use time::OffsetDateTime;

use crate::fleet::{Fleet, LATEST};
use crate::stack::{HubOptions, HubProcess, eventually};
use crate::witness::{SOON, Truth, connect, replicas};

const INTERVAL: Duration = Duration::from_millis(500);

/// A row of `liveness_holds`.
#[derive(Debug, Clone, PartialEq)]
struct Held {
    service: String,
    instances: i32,
    since: OffsetDateTime,
    until: OffsetDateTime,
}

async fn holds(truth: &Truth) -> Vec<Held> {
    let sql = "SELECT service_name, instances, since, until FROM liveness_holds ORDER BY service_name";
    let rows = truth.rows(sql, &[]).await.unwrap();
    let held = |row: &tokio_postgres::Row| Held {
        service: row.get(0),
        instances: row.get(1),
        since: row.get(2),
        until: row.get(3),
    };
    rows.iter().map(held).collect()
}

/// The only hold, once there is one.
async fn held(truth: &Truth) -> Held {
    eventually(SOON, || async {
        let mut holds = holds(truth).await;
        if holds.len() == 1 { Ok(holds.remove(0)) } else { Err(holds) }
    })
    .await
}

/// Sets how long mass expiries are held, and waits until each hub has it.
async fn hold_for(options: &HubOptions, hubs: &[HubProcess], seconds: f64) {
    let hub = HubClient::new(connect(&options.nats_url).await).with_prefix(options.prefix.clone());
    let settings = json!({"operational": {"service_discovery": {"mass_expiry_hold_seconds": seconds}}});
    hub.call(&ConfigSet::new(ServiceName::hub(), settings.as_object().unwrap().clone())).await.unwrap();
    let in_force = |hub: &HubProcess| hub.log().contains("the hub's own settings are in force");
    eventually(SOON, || async { hubs.iter().all(in_force) }).await;
}

#[tokio::test]
async fn a_mass_death_is_held_and_let_go_when_the_hold_runs_out() {
    let options = HubOptions::fresh().await;
    let truth = Truth::of(&options);
    let hubs = replicas(&options, 1).await;
    let mut fleet = Fleet::start(&options, 4, 32, INTERVAL, 31).await;
    fleet.strain_from_here();
    let dead: Vec<_> = fleet
        .of("fleet-2")
        .take(6)
        .map(|member| {
            member.kill();
            member.key()
        })
        .collect();
    let hold = held(&truth).await;
    assert_eq!(hold.service, "fleet-2");
    assert!((4..=6).contains(&hold.instances), "{hold:?}: those that are due, and those that are late");
    assert_eq!(hold.until - hold.since, fleet.timeout() * 2, "two timeouts, where nothing else is set");

    eventually(SOON, || async { truth.downed().await.len() == 6 }).await;
    let downs = truth.downs().await;
    for down in &downs {
        assert!(dead.contains(&down.of), "{down:?}");
        let after = down.at - hold.until;
        assert!(after >= Duration::ZERO && after < fleet.bound() - fleet.timeout(), "{after} after the hold ran out");
    }
    eventually(SOON, || async { holds(&truth).await.is_empty() }).await;
    let sql = "SELECT bool_and((details->>'held_seconds')::float8 BETWEEN 3 AND 9) FROM hub_events WHERE kind = 'down'";
    assert!(truth.one::<bool>(sql, &[]).await, "the timeline tells that they were held");
    let sql = "SELECT count(*) FROM hub_events WHERE kind = 'down' AND instance_id = $1";
    for (_, instance) in &dead {
        assert_eq!(truth.one::<i64>(sql, &[&instance.as_str()]).await, 1);
    }

    // Another one dies, alone, beside those that lie there: that is no mass.
    let last = fleet.of("fleet-2").find(|member| member.beats()).unwrap();
    last.kill();
    let (last, killed) = (last.key(), OffsetDateTime::now_utc());
    fleet.strain_from_here();
    eventually(SOON, || async { truth.downed().await.contains(&last) }).await;
    let took = truth.downs().await.last().unwrap().at - killed;
    assert!(took < fleet.bound(), "{took}");
    fleet.never_wronged().await;
    assert!(hubs[0].log().contains("a mass expiry is held"));
}

/// All of a service fall silent, and then most of the fleet, each for longer than its timeout: a network that breaks.
#[tokio::test]
async fn those_who_are_heard_again_end_the_hold_and_nobody_goes_down() {
    let options = HubOptions::fresh().await;
    let truth = Truth::of(&options);
    let hubs = replicas(&options, 1).await;
    hold_for(&options, &hubs, 30.0).await;
    let mut fleet = Fleet::start(&options, 10, 30, INTERVAL, 32).await;
    let pausing = |paused: &dyn Fn(&str) -> bool, fleet: &mut Fleet| {
        fleet.members.iter_mut().filter(|member| paused(member.service.as_str())).for_each(|member| member.pause());
    };
    // Of the services none has five instances: only the fleet can tell.
    pausing(&|service| service < "fleet-6", &mut fleet);
    let hold = held(&truth).await;
    assert_eq!(hold.service, "", "of the fleet");
    assert_eq!(hold.until - hold.since, time::Duration::seconds(30));
    eventually(SOON, || async { (holds(&truth).await[0].instances == 18).then_some(()) }).await;
    assert_eq!(holds(&truth).await[0].until, hold.until, "it lasts no longer for that");
    // Each would have been marked by now.
    let past: OffsetDateTime = hold.since + fleet.timeout() + LATEST;
    eventually(SOON, || async { OffsetDateTime::now_utc() > past }).await;
    assert_eq!(truth.downed().await, []);

    fleet.members.iter_mut().filter(|member| !member.beats()).for_each(|member| member.resume());
    eventually(SOON, || async { holds(&truth).await.is_empty() }).await;
    fleet.heard().await;
    assert_eq!(truth.downed().await, [], "nobody went down");
    fleet.only_the_silent_goes_down(SOON).await;
}

/// Some come back and the others are too few to be a mass: then these are dead.
#[tokio::test]
async fn the_few_who_are_not_heard_again_are_marked_down() {
    let options = HubOptions::fresh().await;
    let truth = Truth::of(&options);
    let hubs = replicas(&options, 1).await;
    hold_for(&options, &hubs, 60.0).await;
    let mut fleet = Fleet::start(&options, 3, 24, INTERVAL, 33).await;
    fleet.of("fleet-1").for_each(|member| member.pause());
    held(&truth).await;
    let few: Vec<_> = fleet.of("fleet-1").map(|member| member.key()).take(3).collect();
    fleet.of("fleet-1").skip(3).for_each(|member| member.resume());
    eventually(SOON, || async {
        let mut downed = truth.downed().await;
        downed.sort();
        let mut few = few.clone();
        few.sort();
        if downed == few { Ok(()) } else { Err(downed) }
    })
    .await;
    eventually(SOON, || async { holds(&truth).await.is_empty() }).await;
    fleet.never_wronged().await;
}

#[tokio::test]
async fn a_change_of_leader_makes_no_hold_longer() {
    let options = HubOptions::fresh().await;
    let truth = Truth::of(&options);
    let mut hubs = replicas(&options, 2).await;
    hold_for(&options, &hubs, 10.0).await;
    let mut fleet = Fleet::start(&options, 3, 24, INTERVAL, 34).await;
    fleet.strain_from_here();
    fleet.of("fleet-0").take(6).for_each(|member| member.kill());
    let hold = held(&truth).await;
    let (leader, _) = eventually(SOON, || truth.leader()).await;
    hubs.iter_mut().find(|hub| hub.options().replica_id == leader).unwrap().kill9().await;
    eventually(SOON, || async { truth.leader().await.filter(|(holder, _)| *holder != leader) }).await;
    eventually(SOON, || async {
        let now = holds(&truth).await;
        let same = now.iter().all(|now| (now.since, now.until) == (hold.since, hold.until));
        assert!(same, "{now:?} after {hold:?}");
        (truth.downed().await.len() == 6).then_some(())
    })
    .await;
    for down in truth.downs().await {
        let after = down.at - hold.until;
        assert!(after >= Duration::ZERO && after < fleet.bound() - fleet.timeout(), "{after} after the hold ran out");
    }
    fleet.never_wronged().await;
}

#[tokio::test]
async fn who_wants_no_holds_has_none() {
    let options = HubOptions::fresh().await;
    let truth = Truth::of(&options);
    let hubs = replicas(&options, 1).await;
    hold_for(&options, &hubs, 0.0).await;
    let mut fleet = Fleet::start(&options, 3, 24, INTERVAL, 35).await;
    fleet.strain_from_here();
    fleet.of("fleet-0").for_each(|member| member.kill());
    let killed = OffsetDateTime::now_utc();
    eventually(SOON, || async { truth.downed().await.len() == 8 }).await;
    for down in truth.downs().await {
        assert!(down.at - killed < fleet.bound(), "{down:?}, killed at {killed}");
    }
    assert_eq!(holds(&truth).await, []);
}
