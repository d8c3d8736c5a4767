//! `central-hub status`, `infra`, `deps`, `uptime` and `metrics`: how the fleet is.

use std::time::Duration;

use clap::Args;
use comfy_table::Cell;
use time::OffsetDateTime;

use super::grammar;
use super::session::{Failure, HubArgs, Out};
use super::table::{ago, dependency, or_dash, table, text};
use crate::domain::name::{InstanceId, ServiceName};
use crate::wire::dependency::{DepsGraph, DepsImpact, Graph, Impact, NodeKind};
use crate::wire::fleet::{Counts, Fleet, FleetStatus};
use crate::wire::infra::{Component, Infra, InfraCheck, InfraStatus};
use crate::wire::metrics::{MetricSeries, Metrics};
use crate::wire::uptime::{Uptime, UptimeOf, UptimeOfAll, Uptimes};

/// Shows the fleet at a glance.
///
/// # Errors
/// [`Failure`].
pub async fn status(hub: &HubArgs) -> Result<(), Failure> {
    hub.connect().await?.show(&FleetStatus {}, glance).await
}

fn glance(fleet: &Fleet, out: &Out) -> String {
    let count = |what: &str, counts: &Counts| {
        format!(
            "{what:<10}  {} healthy, {} degraded, {} down, of {}",
            counts.healthy, counts.degraded, counts.down, counts.total
        )
    };
    let mut lines = vec![count("services", &fleet.services), count("instances", &fleet.instances)];
    if fleet.draining > 0 {
        lines.push(format!("            {} out of use", fleet.draining));
    }
    let alerts = &fleet.alerts;
    lines.push(format!(
        "alerts      {} critical, {} warning, {} info; {} of them acknowledged",
        alerts.critical, alerts.warning, alerts.info, alerts.acked
    ));
    let names = fleet.configs.services.iter().map(ServiceName::as_str).collect::<Vec<_>>().join(", ");
    let behind = if names.is_empty() { String::new() } else { format!(": {names}") };
    let (total, not) = (fleet.configs.total, fleet.configs.not_converged);
    lines.push(format!("configs     {} run by everybody, {not} not yet, of {total}{behind}", total - not));
    if !fleet.infra.is_empty() {
        lines.push(format!("\n{}", components(&fleet.infra, out)));
    }
    lines.join("\n")
}

/// How the infrastructure is that the fleet stands on
#[derive(Args, Clone, Debug)]
pub struct InfraArgs {
    /// Check everything now, instead of telling the last checks
    #[arg(long)]
    check: bool,
}

/// Shows it.
///
/// # Errors
/// [`Failure`].
pub async fn infra(args: InfraArgs, hub: &HubArgs) -> Result<(), Failure> {
    let session = hub.connect().await?;
    let render = |infra: &Infra, out: &Out| {
        if infra.components.is_empty() {
            "no component was checked yet".into()
        } else {
            components(&infra.components, out)
        }
    };
    if args.check { session.show(&InfraCheck {}, render).await } else { session.show(&InfraStatus {}, render).await }
}

fn components(all: &[Component], out: &Out) -> String {
    let now = OffsetDateTime::now_utc();
    let mut rows = table(&["component", "kind", "status", "answer", "24 h", "checked"]);
    let mut errors = table(&[]);
    for component in all {
        let critical = if component.critical { " !" } else { "" };
        rows.add_row([
            Cell::new(format!("{}{critical}", component.component_name)),
            Cell::new(&component.kind),
            dependency(component.status, out),
            Cell::new(or_dash(component.response_time_ms.map(|millis| format!("{millis:.1} ms")))),
            Cell::new(or_dash(component.uptime_pct_24h.map(percent))),
            Cell::new(ago(component.checked_at, now) + " ago"),
        ]);
        if let Some(error) = &component.error_message {
            errors.add_row([component.component_name.as_str(), error]);
        }
    }
    let rows = text(&mut rows);
    // Below, where there is room for whole sentences.
    if errors.is_empty() { rows } else { format!("{rows}\n\n{}", text(&mut errors)) }
}

/// Two digits, and never rounded up to a hundred.
fn percent(value: f64) -> String {
    let shown = (value * 100.0).floor() / 100.0;
    format!("{shown:.2} %")
}

/// Who needs whom, and who suffers when something goes down
#[derive(Args, Clone, Debug)]
pub struct DepsArgs {
    /// Print a graph for Graphviz
    #[arg(long, conflicts_with = "impact")]
    dot: bool,
    /// Who suffers if this service or component goes down
    #[arg(long, value_name = "NAME")]
    impact: Option<ServiceName>,
}

/// Shows it.
///
/// # Errors
/// [`Failure`].
pub async fn deps(args: DepsArgs, hub: &HubArgs) -> Result<(), Failure> {
    let session = hub.connect().await?;
    match args.impact {
        Some(name) => session.show(&DepsImpact { name }, suffering).await,
        None if args.dot => session.show(&DepsGraph {}, |graph, _| dot(graph)).await,
        None => session.show(&DepsGraph {}, needs).await,
    }
}

fn suffering(impact: &Impact, _: &Out) -> String {
    if impact.transitive.is_empty() {
        return format!("nobody needs {}", impact.name);
    }
    let others: Vec<_> = impact.transitive.iter().filter(|name| !impact.direct.contains(name)).cloned().collect();
    let mut lines = vec![format!("directly        {}", listed(&impact.direct))];
    if !others.is_empty() {
        lines.push(format!("through others  {}", listed(&others)));
    }
    lines.join("\n")
}

fn listed(names: &[ServiceName]) -> String {
    names.iter().map(ServiceName::as_str).collect::<Vec<_>>().join(", ")
}

fn needs(graph: &Graph, out: &Out) -> String {
    let mut rows = table(&["name", "kind", "status", "needs"]);
    for node in &graph.nodes {
        let kind = match node.kind {
            NodeKind::Service => "service",
            NodeKind::Infrastructure => "infrastructure",
            NodeKind::Unknown => "unknown",
        };
        let needed = graph.edges.iter().filter(|edge| edge.from == node.name).map(|edge| edge.to.as_str());
        rows.add_row([
            Cell::new(&node.name),
            Cell::new(kind),
            dependency(node.status, out),
            Cell::new(needed.collect::<Vec<_>>().join(", ")),
        ]);
    }
    let mut lines = vec![text(&mut rows)];
    if graph.start_order.len() > 1 {
        lines.push("\nin this order everything finds what it needs:".into());
        let steps = graph.start_order.iter().zip(1..);
        lines.extend(steps.map(|(step, number)| format!("{number:>3}. {}", listed(step))));
    }
    for cycle in &graph.cycles {
        lines.push(format!("\nthese need each other in a circle: {}", listed(cycle)));
    }
    lines.join("\n")
}

fn dot(graph: &Graph) -> String {
    let mut lines = vec!["digraph fleet {".to_owned(), "  rankdir = LR;".to_owned()];
    for node in &graph.nodes {
        let shape = if node.kind == NodeKind::Infrastructure { "cylinder" } else { "box" };
        let colour = match node.status.as_str() {
            "healthy" => "darkgreen",
            "degraded" => "orange",
            "down" => "red",
            _ => "grey",
        };
        lines.push(format!("  \"{}\" [shape={shape}, color={colour}];", node.name));
    }
    lines.extend(graph.edges.iter().map(|edge| format!("  \"{}\" -> \"{}\";", edge.from, edge.to)));
    lines.push("}".into());
    lines.join("\n")
}

/// For how much of a window something was up
#[derive(Args, Clone, Debug)]
pub struct UptimeArgs {
    /// A service or component; left out, all
    name: Option<ServiceName>,
    /// Only this instance of the service
    #[arg(long, value_name = "ID", requires = "name")]
    instance: Option<InstanceId>,
    /// How far back
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = grammar::duration)]
    window: Duration,
}

/// Shows it.
///
/// # Errors
/// [`Failure`].
pub async fn uptime(args: UptimeArgs, hub: &HubArgs) -> Result<(), Failure> {
    let session = hub.connect().await?;
    let window_seconds = Some(args.window.as_secs_f64());
    match args.name {
        Some(service_name) => {
            let request = UptimeOf { service_name, instance_id: args.instance, window_seconds };
            session.show(&request, one_uptime).await
        }
        None => {
            let mut request = UptimeOfAll { window_seconds, ..UptimeOfAll::default() };
            let mut all = session.call(&request).await?;
            while all.next_cursor.is_some() {
                request.cursor = all.next_cursor.take();
                let page = session.call(&request).await?;
                all.services.extend(page.services);
                all.components.extend(page.components);
                all.next_cursor = page.next_cursor;
            }
            session.out.print(&all, |out| all_uptimes(&all, out))
        }
    }
}

fn spell(seconds: f64) -> String {
    let rounded = Duration::from_secs_f64(seconds.max(0.0).round());
    if rounded.is_zero() { "0s".into() } else { humantime::format_duration(rounded).to_string() }
}

fn one_uptime(uptime: &Uptime, out: &Out) -> String {
    let mut lines = vec![uptime_rows(std::slice::from_ref(uptime), out)];
    for transition in uptime.transitions.iter().flatten() {
        let at = transition.at.format(&time::format_description::well_known::Rfc3339).unwrap_or_default();
        let became = transition.status.map_or("gone", |status| status.as_str());
        lines.push(format!("  {at}  {became}"));
    }
    if uptime.truncated {
        lines.push("  earlier ones are left out".into());
    }
    lines.join("\n")
}

fn all_uptimes(all: &Uptimes, out: &Out) -> String {
    let rows: Vec<Uptime> = all.services.iter().chain(&all.components).cloned().collect();
    if rows.is_empty() { "nothing was there within the window".into() } else { uptime_rows(&rows, out) }
}

fn uptime_rows(all: &[Uptime], _: &Out) -> String {
    let mut rows = table(&["name", "up", "down for", "known of the window"]);
    for uptime in all {
        let name = match &uptime.instance_id {
            Some(instance) => format!("{}.{instance}", uptime.service_name),
            None => uptime.service_name.to_string(),
        };
        let up = or_dash(uptime.uptime_pct.map(percent));
        rows.add_row([name, up, spell(uptime.down_seconds), spell(uptime.covered_seconds)]);
    }
    text(&mut rows)
}

/// What a service's instances measured
#[derive(Args, Clone, Debug)]
pub struct MetricsArgs {
    /// The service
    service: ServiceName,
    /// Only this metric
    metric: Option<String>,
    /// Only what this instance measured
    #[arg(long, value_name = "ID")]
    instance: Option<InstanceId>,
    /// How far back
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = grammar::duration)]
    since: Duration,
    /// Length of a bucket; left out, a sixtieth of --since
    #[arg(long, value_name = "DURATION", value_parser = grammar::duration)]
    bucket: Option<Duration>,
}

/// Shows it.
///
/// # Errors
/// [`Failure`].
pub async fn metrics(args: MetricsArgs, hub: &HubArgs) -> Result<(), Failure> {
    let mut request = Metrics {
        service_name: args.service,
        metric_type: args.metric,
        instance_id: args.instance,
        since_seconds: Some(args.since.as_secs_f64()),
        bucket_seconds: args.bucket.map(|bucket| bucket.as_secs_f64()),
        limit: None,
        cursor: None,
    };
    let session = hub.connect().await?;
    let mut all = session.call(&request).await?;
    while all.next_cursor.is_some() {
        request.cursor = all.next_cursor.take();
        let page = session.call(&request).await?;
        all.series.extend(page.series);
        all.next_cursor = page.next_cursor;
    }
    session.out.print(&all, |out| series(&all, out))
}

fn series(all: &MetricSeries, _: &Out) -> String {
    let mut rows = table(&["metric", "min", "mean", "max", "values", "over time"]);
    for series in &all.series {
        let count: u64 = series.points.iter().map(|point| u64::from(point.count)).sum();
        let min = series.points.iter().map(|point| point.min).fold(f64::INFINITY, f64::min);
        let max = series.points.iter().map(|point| point.max).fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = series.points.iter().map(|point| point.avg * f64::from(point.count)).sum();
        let means: Vec<f64> = series.points.iter().map(|point| point.avg).collect();
        rows.add_row([
            series.metric_type.clone(),
            short(min),
            short(sum / (count as f64).max(1.0)),
            short(max),
            count.to_string(),
            sparkline(&means),
        ]);
    }
    if all.series.is_empty() { "nothing was measured in that time".into() } else { text(&mut rows) }
}

/// Four significant digits are enough for a person.
fn short(value: f64) -> String {
    if value == 0.0 {
        return "0".into();
    }
    let digits = (3 - value.abs().log10().floor() as i32).clamp(0, 6) as usize;
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// Values as bars of eight heights, from the smallest to the largest.
#[must_use]
pub fn sparkline(values: &[f64]) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let (min, max) =
        values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(min, max), value| (min.min(*value), max.max(*value)));
    let span = (max - min).max(f64::MIN_POSITIVE);
    let bar = |value: &f64| BARS.get((((value - min) / span) * 7.0).round() as usize).copied().unwrap_or('█');
    values.iter().map(bar).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_bars_are_short() {
        for (value, text) in [
            (0.0, "0"),
            (0.93, "0.93"),
            (1234.567, "1235"),
            (12.3456, "12.35"),
            (0.00012345, "0.000123"),
            (-2.5, "-2.5"),
        ] {
            assert_eq!(short(value), text);
        }
        assert_eq!(sparkline(&[0.0, 3.5, 7.0]), "▁▅█");
        assert_eq!(sparkline(&[1.0, 1.0]), "▁▁");
        assert_eq!(percent(99.999), "99.99 %");
    }
}
