//! Steps of Postgres' clock, which decides liveness: nobody who beats is marked down, and nobody who died hides behind one.

use std::time::{Duration, Instant};

use crate::fleet::Fleet;
use crate::stack::{HubOptions, HubProcess, eventually, nats_url, shared, unique};
use crate::witness::{SOON, Truth, replicas};

/// A database whose clock can be set: `clock_timestamp()` is found in a schema before the system's.
struct Clock {
    truth: Truth,
    options: HubOptions,
}

impl Clock {
    async fn new() -> Clock {
        let name = unique();
        let postgres = &shared().postgres;
        postgres.create_database(&name, None).await.unwrap();
        let options = HubOptions::on(&nats_url(), &postgres.url_of(&name));
        let truth = Truth::of(&options);
        let database = truth.session().await.unwrap();
        let sql = format!(
            "CREATE SCHEMA warped;
             CREATE TABLE warped.skew AS SELECT interval '0' AS skew;
             CREATE FUNCTION warped.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS
                 'SELECT pg_catalog.clock_timestamp() + skew FROM warped.skew';
             ALTER DATABASE \"{name}\" SET search_path = public, warped, pg_catalog"
        );
        database.batch_execute(&sql).await.unwrap();
        Clock { truth, options }
    }

    async fn step(&self, seconds: f64) {
        let sql = "UPDATE warped.skew SET skew = skew + $1 * interval '1 second'";
        self.truth.rows(sql, &[&seconds]).await.unwrap();
    }

    /// Each of these steps, with a death before it that no sweep has seen yet.
    async fn steps(&self, fleet: &mut Fleet, steps: &[f64]) {
        for step in steps {
            fleet.heard().await;
            let dead = fleet.silence_one().key();
            self.step(*step).await;
            let (stepped, bound) = (Instant::now(), || fleet.bound());
            fleet.strain_from_here();
            eventually(fleet.timeout() + SOON, || async { self.truth.downed().await.contains(&dead) }).await;
            // A second at the most until the hub notices the step.
            let (took, bound) = (stepped.elapsed(), bound() + Duration::from_secs(1));
            assert!(took < bound, "{dead:?} was marked {took:?} after a step of {step} s, not within {bound:?}");
            fleet.never_wronged().await;
        }
    }
}

#[tokio::test]
async fn steps_of_the_clock_mark_nobody_who_beats_and_hide_nobody_who_died() {
    let clock = Clock::new().await;
    let _hubs = replicas(&clock.options, 1).await;
    let mut fleet = Fleet::start(&clock.options, 2, 16, Duration::from_millis(500), 81).await;
    clock.steps(&mut fleet, &[3_600.0, -3_600.0, 5.0, -5.0, -1.4, 0.9, -0.7]).await;
}

#[tokio::test]
async fn a_clock_that_went_back_leaves_nobody_in_office() {
    let clock = Clock::new().await;
    let mut hubs = replicas(&clock.options, 2).await;
    let mut fleet = Fleet::start(&clock.options, 2, 8, Duration::from_millis(500), 82).await;
    let (leader, token) = eventually(SOON, || clock.truth.leader()).await;
    let named = |hub: &&mut HubProcess| hub.options().replica_id == leader;
    // Its lease has an hour to run, by the clock that there is now.
    let old = hubs.iter_mut().find(named).unwrap();
    old.kill9().await;
    clock.step(-3_600.0).await;
    let heir = || async { clock.truth.leader().await.filter(|(holder, _)| *holder != leader) };
    let (_, new) = eventually(SOON, heir).await;
    assert_eq!(new, token + 1);
    fleet.only_the_silent_goes_down(SOON).await;
}
