//! What a key does.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::model::{Model, Pane, Question};
use crate::domain::name::{InstanceId, ServiceName};

/// Lines that a page has, for the keys that go by pages.
const PAGE: usize = 10;

/// Something that isn't the model's to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Leave.
    Quit,
    /// Ask the hub about a service from now on.
    LookInto(ServiceName),
    /// Ask no more.
    GoBack,
    /// Take an instance out of use, or back in.
    Drain {
        /// Its service.
        service_name: ServiceName,
        /// Which.
        instance_id: InstanceId,
        /// Out of use, or back in.
        draining: bool,
    },
    /// Take back the newest change of a config.
    RollBack {
        /// Whose.
        service_name: ServiceName,
    },
}

/// Takes a key; gives what there is to do beside the model.
pub fn press(model: &mut Model, key: KeyEvent) -> Option<Command> {
    if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
        return Some(Command::Quit);
    }
    model.told = None;
    if let Some(question) = model.question.take() {
        return matches!(key.code, KeyCode::Char('y' | 'Y')).then_some(question.command);
    }
    if model.filtering {
        filter(model, key.code);
        return None;
    }
    if std::mem::take(&mut model.help) {
        return None;
    }
    match key.code {
        KeyCode::Char('q') => return Some(Command::Quit),
        KeyCode::Char('?' | 'h') => model.help = true,
        KeyCode::Char('/') => model.filtering = true,
        KeyCode::Tab => turn(model, 1),
        KeyCode::BackTab => turn(model, 2),
        KeyCode::Up | KeyCode::Char('k') => go(model, |at, _| at.saturating_sub(1)),
        KeyCode::Down | KeyCode::Char('j') => go(model, |at, _| at + 1),
        KeyCode::PageUp => go(model, |at, _| at.saturating_sub(PAGE)),
        KeyCode::PageDown => go(model, |at, _| at + PAGE),
        KeyCode::Home | KeyCode::Char('g') => go(model, |_, _| 0),
        KeyCode::End | KeyCode::Char('G') => go(model, |_, last| last),
        KeyCode::Enter => return look_into(model),
        KeyCode::Esc | KeyCode::Backspace => return go_back(model),
        KeyCode::Char('d') => ask_drain(model),
        KeyCode::Char('r') => ask_roll_back(model),
        _ => {}
    }
    None
}

fn filter(model: &mut Model, code: KeyCode) {
    match code {
        KeyCode::Enter => model.filtering = false,
        KeyCode::Esc => {
            model.filtering = false;
            model.filter.clear();
        }
        KeyCode::Backspace => {
            model.filter.pop();
        }
        KeyCode::Char(c) => model.filter.push(c),
        _ => {}
    }
    model.selected[Pane::Fleet as usize] = 0;
}

fn turn(model: &mut Model, by: usize) {
    const PANES: [Pane; 3] = [Pane::Fleet, Pane::Alerts, Pane::Timeline];
    model.pane = PANES[(model.pane as usize + by) % PANES.len()];
}

fn go(model: &mut Model, to: impl FnOnce(usize, usize) -> usize) {
    let last = model.lines().saturating_sub(1);
    let selection = model.selection();
    *selection = to(*selection, last).min(last);
}

/// The service that is selected, or looked into.
fn service(model: &Model) -> Option<ServiceName> {
    match (&model.inside, model.pane) {
        (Some(inside), _) => Some(inside.clone()),
        (None, Pane::Fleet) => model.rows().get(model.selected[0]).map(|row| row.service_name.clone()),
        (None, Pane::Alerts) => model.alerts.get(model.selected[1]).map(|alert| alert.name.clone()),
        (None, Pane::Timeline) => model.timeline.get(model.selected[2]).map(|event| event.service_name.clone()),
    }
}

fn look_into(model: &mut Model) -> Option<Command> {
    if model.inside.is_some() {
        return None;
    }
    let service = service(model)?;
    model.inside = Some(service.clone());
    (model.pane, model.selected[0]) = (Pane::Fleet, 0);
    Some(Command::LookInto(service))
}

fn go_back(model: &mut Model) -> Option<Command> {
    if model.inside.take().is_none() {
        model.filter.clear();
        return None;
    }
    (model.detail, model.selected[0]) = (None, 0);
    Some(Command::GoBack)
}

fn ask_drain(model: &mut Model) {
    let instance = model.instances_inside().into_iter().nth(model.selected[0]);
    let Some(instance) = instance.filter(|_| model.pane == Pane::Fleet) else {
        model.told = Some("look into a service (Enter) and select an instance first".into());
        return;
    };
    let draining = !instance.draining;
    let how = if draining { "out of use" } else { "back into use" };
    let text = format!("take {}.{} {how}? (y/n)", instance.service_name, instance.instance_id);
    let (service_name, instance_id) = (instance.service_name, instance.instance_id);
    model.question = Some(Question { text, command: Command::Drain { service_name, instance_id, draining } });
}

fn ask_roll_back(model: &mut Model) {
    let Some(service_name) = service(model) else { return };
    let text = format!("take back the newest change of {service_name}'s config? (y/n)");
    model.question = Some(Question { text, command: Command::RollBack { service_name } });
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn key(code: KeyCode) -> KeyEvent {
        KeyEvent::new(code, KeyModifiers::NONE)
    }

    #[test]
    fn only_a_yes_is_one() {
        let mut model = Model::new(String::new());
        model.inside = Some("a".parse().unwrap());
        let rolled_back = Some(Command::RollBack { service_name: "a".parse().unwrap() });
        for (answer, expected) in [('y', rolled_back.clone()), ('n', None), ('q', None), ('r', None)] {
            assert_eq!(press(&mut model, key(KeyCode::Char('r'))), None);
            assert!(model.question.is_some());
            assert_eq!(press(&mut model, key(KeyCode::Char(answer))), expected);
            assert!(model.question.is_none());
        }
        assert_eq!(press(&mut model, key(KeyCode::Char('q'))), Some(Command::Quit));
    }

    #[test]
    fn the_filter_takes_every_letter() {
        let mut model = Model::new(String::new());
        press(&mut model, key(KeyCode::Char('/')));
        for c in "qd".chars() {
            assert_eq!(press(&mut model, key(KeyCode::Char(c))), None);
        }
        assert_eq!(model.filter, "qd");
        press(&mut model, key(KeyCode::Enter));
        assert!(!model.filtering);
        press(&mut model, key(KeyCode::Esc));
        assert_eq!(model.filter, "");
    }
}
