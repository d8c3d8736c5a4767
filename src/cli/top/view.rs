//! Draws what the model knows. Usable at 80 × 24: what doesn't fit is cut, never wrapped.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Cell, Clear, List, ListItem, ListState, Paragraph, Row, Table, TableState};
use time::OffsetDateTime;

use super::model::{Absent, Model, Outage, Pane};
use crate::cli::alerts::by_urgency;
use crate::cli::fleet::sparkline;
use crate::cli::session::Out;
use crate::cli::table::ago;
use crate::cli::timeline::line as event_line;
use crate::domain::alert::Severity;
use crate::domain::status::Status;
use crate::wire::registry::DependencyStatus;

const KEYS: &str = "↑↓ select  Enter open  / filter  d drain  r roll back  Tab pane  ? help  q quit";

/// Draws the screen.
pub fn draw(frame: &mut Frame<'_>, model: &mut Model) {
    let now = OffsetDateTime::now_utc();
    let lower = 3 + u16::try_from(model.alerts.len().min(4)).unwrap_or(4);
    let [head, fleet, alerts, timeline, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Min(6),
        Constraint::Length(lower),
        Constraint::Percentage(25),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(Paragraph::new(heading(model, now)), head);
    let last = model.lines().saturating_sub(1);
    *model.selection() = (*model.selection()).min(last);
    match model.inside.clone() {
        Some(_) => draw_service(frame, fleet, model, now),
        None => {
            let beside = if model.components.is_empty() { 0 } else { 30 };
            let [services, infra] = Layout::horizontal([Constraint::Min(40), Constraint::Length(beside)]).areas(fleet);
            draw_services(frame, services, model);
            draw_infra(frame, infra, model);
        }
    }
    draw_alerts(frame, alerts, model, now);
    draw_timeline(frame, timeline, model);
    if model.outage.is_some() {
        let known_before = fleet.union(alerts).union(timeline);
        frame.buffer_mut().set_style(known_before, Style::new().add_modifier(Modifier::DIM));
    }
    frame.render_widget(Paragraph::new(footing(model)), foot);
    if model.help {
        draw_help(frame);
    }
}

fn heading(model: &Model, now: OffsetDateTime) -> Line<'static> {
    let ([healthy, degraded, down], instances) = model.counts();
    let alarm = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD);
    let mut spans = vec![Span::styled("central-hub", Style::new().add_modifier(Modifier::BOLD))];
    // First, so that no width cuts it off.
    if let Some(Outage { who, since }) = model.outage {
        let what = match who {
            Absent::Nats => "NATS: not connected",
            Absent::Hub => "no hub answers",
        };
        spans.push(Span::styled(format!("  {what} for {}", ago(now - since.elapsed(), now)), alarm));
    }
    spans.push(Span::raw(format!("  {} services, {instances} instances  ", healthy + degraded + down)));
    spans.push(Span::styled(format!("{healthy} healthy"), Style::new().fg(Color::Green)));
    for (count, name, colour) in [(degraded, "degraded", Color::Yellow), (down, "down", Color::Red)] {
        if count > 0 {
            spans.push(Span::styled(format!("  {count} {name}"), Style::new().fg(colour)));
        }
    }
    if !model.filter.is_empty() {
        spans.push(Span::raw(format!("  /{}", model.filter)));
    }
    for name in model.broken.keys() {
        spans.push(Span::styled(format!("  {name}: not live"), alarm));
    }
    Line::from(spans)
}

fn footing(model: &Model) -> Line<'static> {
    if let Some(question) = &model.question {
        return Line::styled(question.text.clone(), Style::new().fg(Color::Yellow).add_modifier(Modifier::BOLD));
    }
    if model.filtering {
        return Line::raw(format!("/{}▏ Enter keeps it, Esc clears it", model.filter));
    }
    match (&model.told, model.broken.iter().next()) {
        (Some(told), _) => Line::styled(told.clone(), Style::new().fg(Color::Cyan)),
        (None, Some((name, why))) => Line::styled(format!("{name}: {why}"), Style::new().fg(Color::Red)),
        (None, None) => Line::styled(KEYS, Style::new().fg(Color::DarkGray)),
    }
}

fn block(title: String, model: &Model, pane: Pane) -> Block<'static> {
    let style = if model.pane == pane { Style::new().fg(Color::Cyan) } else { Style::new().fg(Color::DarkGray) };
    Block::new().borders(Borders::TOP).border_style(style).title(title)
}

fn colour(status: DependencyStatus) -> Color {
    match status {
        DependencyStatus::Healthy => Color::Green,
        DependencyStatus::Degraded => Color::Yellow,
        DependencyStatus::Down => Color::Red,
        DependencyStatus::Unknown => Color::DarkGray,
    }
}

fn status_cell(status: Status) -> Cell<'static> {
    Cell::new(status.as_str()).style(Style::new().fg(colour(Some(status).into())))
}

fn selected() -> Style {
    Style::new().add_modifier(Modifier::REVERSED)
}

fn draw_services(frame: &mut Frame<'_>, area: Rect, model: &Model) {
    let rows = model.rows();
    let shown = rows.iter().map(|row| {
        let config = match row.config {
            None => "-".to_owned(),
            Some(version) if row.refusing > 0 => {
                format!("v{version} {}/{}, {} refuse", row.current, row.up, row.refusing)
            }
            Some(version) => format!("v{version} {}/{}", row.current, row.up),
        };
        let converged = row.config.is_none() || row.current == row.up;
        let tone = if row.refusing > 0 {
            Color::Red
        } else if converged {
            Color::Reset
        } else {
            Color::Yellow
        };
        let draining = if row.draining > 0 { format!(" ({} out)", row.draining) } else { String::new() };
        Row::new([
            Cell::new(row.service_name.to_string()),
            status_cell(row.status),
            Cell::new(format!("{}/{}{draining}", row.up, row.all)),
            Cell::new(row.versions.join(" ")),
            Cell::new(config).style(Style::new().fg(tone)),
        ])
    });
    let widths = [
        Constraint::Min(16),
        Constraint::Length(8),
        Constraint::Length(10),
        Constraint::Length(8),
        Constraint::Length(14),
    ];
    let header = Row::new(["SERVICE", "STATUS", "UP", "VERSION", "CONFIG"]).style(Style::new().fg(Color::DarkGray));
    let table = Table::new(shown, widths).header(header).row_highlight_style(selected()).block(block(
        format!(" services {} ", rows.len()),
        model,
        Pane::Fleet,
    ));
    let mut state = TableState::new().with_selected(model.selected[0]);
    frame.render_stateful_widget(table, area, &mut state);
}

fn draw_infra(frame: &mut Frame<'_>, area: Rect, model: &Model) {
    let items = model.components.values().map(|component| {
        let took = component.response_time_ms.map_or_else(String::new, |millis| format!(" {millis:.1} ms"));
        Line::from(vec![
            Span::styled("● ", Style::new().fg(colour(component.status))),
            Span::raw(component.component_name.to_string()),
            Span::styled(took, Style::new().fg(Color::DarkGray)),
        ])
    });
    let block = Block::new().borders(Borders::TOP | Borders::LEFT).border_style(Style::new().fg(Color::DarkGray));
    frame.render_widget(List::new(items.map(ListItem::new)).block(block.title(" infrastructure ")), area);
}

fn draw_service(frame: &mut Frame<'_>, area: Rect, model: &Model, now: OffsetDateTime) {
    let Some(service) = &model.inside else { return };
    let series = model.detail.as_ref().map_or(&[][..], |detail| &detail.series);
    let below = u16::try_from(series.len().min(6)).unwrap_or(6);
    let [instances, metrics] = Layout::vertical([Constraint::Min(4), Constraint::Length(below)]).areas(area);
    let rows = model.instances_inside();
    let shown = rows.iter().map(|instance| {
        let version = instance.config_version.map_or_else(|| "-".into(), |version| format!("v{version}"));
        let config = match &instance.config_error {
            Some(error) => format!("{version} refused: {error}"),
            None => version,
        };
        let status = if instance.draining { Cell::new("draining") } else { status_cell(instance.status) };
        Row::new([
            Cell::new(instance.instance_id.to_string()),
            status,
            Cell::new(instance.version.clone().unwrap_or_else(|| "-".into())),
            Cell::new(instance.last_heartbeat.map_or_else(|| "…".into(), |at| ago(at, now))),
            Cell::new(config),
        ])
    });
    let head = match model.detail.as_ref().and_then(|detail| detail.config.as_ref()) {
        Some(config) => {
            let version = config.version.map_or_else(|| "no config".into(), |version| format!("config v{version}"));
            let converged = if config.converged { "converged" } else { "not converged" };
            format!(" {service}: {version}, revision {}, {converged} ", config.revision)
        }
        None => format!(" {service} "),
    };
    let widths = [
        Constraint::Min(20),
        Constraint::Length(8),
        Constraint::Length(10),
        Constraint::Length(8),
        Constraint::Length(24),
    ];
    let header = Row::new(["INSTANCE", "STATUS", "VERSION", "HEARD", "CONFIG"]).style(Style::new().fg(Color::DarkGray));
    let table =
        Table::new(shown, widths).header(header).row_highlight_style(selected()).block(block(head, model, Pane::Fleet));
    let mut state = TableState::new().with_selected(model.selected[0]);
    frame.render_stateful_widget(table, instances, &mut state);
    let lines = series.iter().take(6).map(|series| {
        let means: Vec<f64> = series.points.iter().map(|point| point.avg).collect();
        let last = means.last().map_or_else(String::new, |value| format!("{value:.2}"));
        Line::raw(format!("{:<20.20} {last:>12} {}", series.metric_type, sparkline(&means)))
    });
    frame.render_widget(Paragraph::new(lines.collect::<Vec<_>>()), metrics);
}

fn draw_alerts(frame: &mut Frame<'_>, area: Rect, model: &Model, now: OffsetDateTime) {
    let items = by_urgency(&model.alerts).into_iter().map(|(alert, follows)| {
        let tone = match alert.severity {
            Severity::Critical => Color::Red,
            Severity::Warning => Color::Yellow,
            Severity::Info => Color::Cyan,
        };
        let mark = if follows { "└ " } else { "" };
        let seen = if alert.acked_at.is_some() { " (seen)" } else { "" };
        ListItem::new(Line::from(vec![
            Span::styled(format!("{:<8} ", alert.severity), Style::new().fg(tone)),
            Span::raw(format!("{:>7}  {mark}{}{seen}", ago(alert.raised_at, now), alert.message)),
        ]))
    });
    let list = List::new(items)
        .highlight_style(if model.pane == Pane::Alerts { selected() } else { Style::new() })
        .block(block(format!(" alerts {} ", model.alerts.len()), model, Pane::Alerts));
    let mut state = ListState::default().with_selected(Some(model.selected[1]));
    frame.render_stateful_widget(list, area, &mut state);
}

fn draw_timeline(frame: &mut Frame<'_>, area: Rect, model: &Model) {
    let plain = Out::plain();
    // Of thousands only those on the screen, and what is needed to get to the selected one.
    let most = model.selected[2] + area.height as usize;
    let items = model.timeline.iter().take(most.max(1)).map(|event| {
        let text = event_line(event, &plain);
        ListItem::new(text.get(11..).map_or_else(|| text.clone(), str::to_owned))
    });
    let list = List::new(items)
        .highlight_style(if model.pane == Pane::Timeline { selected() } else { Style::new() })
        .block(block(" timeline ".into(), model, Pane::Timeline));
    let mut state = ListState::default().with_selected(Some(model.selected[2]));
    frame.render_stateful_widget(list, area, &mut state);
}

fn draw_help(frame: &mut Frame<'_>) {
    let lines = [
        "↑ ↓ k j    select a line; PageUp, PageDown, g, G go further",
        "Enter      look into the selected service",
        "Esc        back, and no filter",
        "/          only services whose name contains what follows",
        "Tab        to the alerts, the timeline, and back",
        "d          take the selected instance out of use, or back in",
        "r          take back the newest change of the service's config",
        "q          quit",
        "",
        "UP counts instances that are up, CONFIG those that run the version.",
    ];
    let area = frame.area();
    let (width, height) = (72.min(area.width), 12.min(area.height));
    let area = Rect::new((area.width - width) / 2, (area.height - height) / 2, width, height);
    frame.render_widget(Clear, area);
    let text: Vec<Line<'_>> = lines.iter().map(|line| Line::raw(*line)).collect();
    frame.render_widget(Paragraph::new(text).block(Block::bordered().title(" keys ")), area);
}
