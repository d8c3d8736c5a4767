//! Cursors of lists: opaque to those who send them back, and each list's own.
//!
//! A cursor says of which list it is and where its page ended, so that one of another list is refused instead of read as a
//! place that was never meant.

use crate::wire::Error;

/// The lists that come in pages. A page of uptimes ends among the services or among the components.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum List {
    Instances,
    Configs,
    Alerts,
    Events,
    Metrics,
    Services,
    Components,
}

impl List {
    /// How its cursors begin. No name has a slash.
    fn prefix(self) -> &'static str {
        match self {
            Self::Instances => "instance/",
            Self::Configs => "config/",
            Self::Alerts => "alert/",
            Self::Events => "event/",
            Self::Metrics => "metric/",
            Self::Services => "service/",
            Self::Components => "component/",
        }
    }

    /// The cursor of a page that ended at `place`.
    pub fn cursor(self, place: impl std::fmt::Display) -> String {
        format!("{}{place}", self.prefix())
    }

    /// The place that a cursor of this list names, as `read` understands it; `None`: from the beginning.
    ///
    /// # Errors
    /// A cursor that this list didn't give.
    pub fn place<'c, T>(
        self,
        cursor: Option<&'c str>,
        read: impl FnOnce(&'c str) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let Some(cursor) = cursor else { return Ok(None) };
        cursor.strip_prefix(self.prefix()).and_then(read).map(Some).ok_or_else(bad_cursor)
    }

    /// Whether a cursor is of this list.
    pub fn gave(self, cursor: &str) -> bool {
        cursor.starts_with(self.prefix())
    }
}

pub(super) fn bad_cursor() -> Error {
    Error::field("cursor", "must be a next_cursor of this list")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_its_lists_alone() {
        let lists = [
            List::Instances,
            List::Configs,
            List::Alerts,
            List::Events,
            List::Metrics,
            List::Services,
            List::Components,
        ];
        for list in lists {
            let cursor = list.cursor("a");
            for other in lists {
                let place = other.place(Some(&cursor), |place| Some(place.to_owned()));
                assert_eq!(place.ok(), (other == list).then(|| Some("a".to_owned())), "{cursor} {other:?}");
                assert_eq!(other.gave(&cursor), other == list);
            }
            assert_eq!(list.place(None, |_| Some(())).unwrap(), None);
            assert!(list.place(Some(&cursor), |_| None::<()>).is_err());
        }
    }
}
