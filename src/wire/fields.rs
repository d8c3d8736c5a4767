//! The fields of a request's body, taken one by one; what nobody asked for is refused by name.

use serde_json::{Map, Value};

use super::error::{Error, ErrorCode};
use super::json;
use crate::domain::limits::Limits;
use crate::domain::name::ServiceName;
use crate::domain::text;

/// The body of a request while it is decoded.
#[derive(Debug)]
pub struct Fields<'a> {
    members: Map<String, Value>,
    asked: Vec<&'static str>,
    service: Option<ServiceName>,
    limits: &'a Limits,
}

impl<'a> Fields<'a> {
    /// Reads a body. An empty one is `{}`. `token` is the service that the subject names, if it ends in one.
    ///
    /// # Errors
    /// [`ErrorCode::TooLarge`], or [`ErrorCode::BadRequest`] for what isn't strict JSON.
    pub fn parse(body: &[u8], token: Option<&str>, limits: &'a Limits) -> Result<Self, Error> {
        let service = token.map(str::parse).transpose().map_err(|rule| Error::field("service_name", rule))?;
        if body.len() > limits.body_bytes {
            return Err(Error::too_large("body", limits.body_bytes, "bytes"));
        }
        let members = if body.iter().all(u8::is_ascii_whitespace) {
            Map::new()
        } else {
            json::parse_object(body, limits.depth).map_err(|violation| {
                let error = Error::field(&violation.field, violation.rule);
                if violation.path.len() > violation.field.len() + 1 { error.at(&violation.path) } else { error }
            })?
        };
        Ok(Self { members, asked: Vec::new(), service, limits })
    }

    /// Bounds on what a request may carry.
    #[must_use]
    pub fn limits(&self) -> &'a Limits {
        self.limits
    }

    /// Takes a field; `null` is as if it were left out.
    pub fn take(&mut self, name: &'static str) -> Option<Value> {
        self.asked.push(name);
        self.members.remove(name).filter(|value| !value.is_null())
    }

    /// Takes a field that may be `null` on purpose; `None` when it is left out.
    pub fn nullable(&mut self, name: &'static str) -> Option<Value> {
        self.asked.push(name);
        self.members.remove(name)
    }

    /// Takes a field that `read` understands.
    ///
    /// # Errors
    /// [`ErrorCode::BadRequest`] with `rule` when `read` gives `None`.
    pub fn typed<T>(
        &mut self,
        name: &'static str,
        rule: &str,
        read: impl FnOnce(Value) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        match self.take(name) {
            None => Ok(None),
            Some(value) => read(value).map(Some).ok_or_else(|| Error::field(name, rule)),
        }
    }

    /// Takes a text of bounded length: one line without control characters.
    ///
    /// # Errors
    /// When it is no text, too long, or holds control characters.
    pub fn text(&mut self, name: &'static str) -> Result<Option<String>, Error> {
        let text = self.bounded(name, self.limits.text_chars)?;
        text.as_deref().map_or(Ok(()), text::check_line).map_err(|rule| Error::field(name, rule))?;
        Ok(text)
    }

    /// Takes a text that is kept as who did something: as [`Fields::text`], and nothing that has the form of a secret.
    ///
    /// # Errors
    /// As [`Fields::text`]; [`ErrorCode::SecretDetected`].
    pub fn author(&mut self, name: &'static str) -> Result<Option<String>, Error> {
        let text = self.text(name)?;
        text.as_deref().map_or(Ok(()), |text| holds_no_secret(name, text))?;
        Ok(text)
    }

    /// Takes a text that is kept as why something was done: as [`Fields::author`], but it may have several lines.
    ///
    /// # Errors
    /// As [`Fields::author`].
    pub fn remark(&mut self, name: &'static str) -> Result<Option<String>, Error> {
        let text = self.bounded(name, self.limits.text_chars)?;
        text.as_deref().map_or(Ok(()), text::check_lines).map_err(|rule| Error::field(name, rule))?;
        text.as_deref().map_or(Ok(()), |text| holds_no_secret(name, text))?;
        Ok(text)
    }

    /// Takes a text that a program worded. Control characters in it become spaces, and what this hub allows less of than
    /// others is cut: nothing is refused for how an error reads.
    ///
    /// # Errors
    /// When it is no text, or too long.
    pub fn report(&mut self, name: &'static str) -> Result<Option<String>, Error> {
        let (kept, most) = (self.limits.text_chars, self.limits.text_chars.max(Limits::default().text_chars));
        Ok(self.bounded(name, most)?.map(|text| text::cleaned(&text).chars().take(kept).collect()))
    }

    fn bounded(&mut self, name: &'static str, most: usize) -> Result<Option<String>, Error> {
        let text = self.typed(name, "must be a text", |value| match value {
            Value::String(text) => Some(text),
            _ => None,
        })?;
        match text {
            Some(text) if text.chars().count() > most => Err(Error::too_large(name, most, "characters")),
            text => Ok(text),
        }
    }

    /// Takes a text that `T` can be parsed from.
    ///
    /// # Errors
    /// The rule of `T`'s grammar.
    pub fn parsed<T>(&mut self, name: &'static str) -> Result<Option<T>, Error>
    where
        T: std::str::FromStr<Err: std::fmt::Display>,
    {
        self.text(name)?.map(|text| text.parse().map_err(|rule| Error::field(name, rule))).transpose()
    }

    /// Takes a truth value.
    ///
    /// # Errors
    /// When it is neither `true` nor `false`.
    pub fn flag(&mut self, name: &'static str) -> Result<Option<bool>, Error> {
        self.typed(name, "must be true or false", |value| value.as_bool())
    }

    /// Takes an integer that isn't below `least`.
    ///
    /// # Errors
    /// When it is none.
    pub fn integer(&mut self, name: &'static str, least: i64) -> Result<Option<i64>, Error> {
        let rule = format!("must be an integer, {least} or more");
        self.typed(name, &rule, |value| value.as_i64().filter(|number| *number >= least))
    }

    /// Takes the `limit` of a list page.
    ///
    /// # Errors
    /// When it lies outside 1 to the most that a page may have.
    pub fn page_limit(&mut self) -> Result<u32, Error> {
        // What a client takes for the most needn't know that this hub allows less.
        let most = self.limits.page_max.max(Limits::default().page_max);
        let rule = format!("must be an integer from 1 to {most}");
        let limit = self.typed("limit", &rule, |value| {
            value.as_u64().and_then(|limit| u32::try_from(limit).ok()).filter(|limit| (1..=most).contains(limit))
        })?;
        Ok(limit.unwrap_or(self.limits.page_default).min(self.limits.page_max))
    }

    /// Takes `service_name`, which must agree with the subject where that names the service too.
    ///
    /// # Errors
    /// [`ErrorCode::Forbidden`] when they disagree; [`ErrorCode::BadRequest`] when neither names one.
    pub fn service(&mut self) -> Result<ServiceName, Error> {
        const NAME: &str = "service_name";
        let said = self.parsed::<ServiceName>(NAME)?;
        match (self.service.take(), said) {
            (Some(subject), Some(body)) if subject != body => {
                Err(Error::new(ErrorCode::Forbidden, "service_name: the subject names another service")
                    .with("field", NAME))
            }
            (Some(name), _) | (None, Some(name)) => Ok(name),
            (None, None) => Err(Error::field(NAME, "is missing")),
        }
    }

    /// Takes a number of seconds within `range`, both ends included.
    ///
    /// # Errors
    /// When it is none.
    pub fn seconds(&mut self, name: &'static str, range: std::ops::RangeInclusive<f64>) -> Result<Option<f64>, Error> {
        let rule = format!("must be a number of seconds from {} to {}", range.start(), range.end());
        self.typed(name, &rule, |value| value.as_f64().filter(|seconds| range.contains(seconds)))
    }

    /// The fields that were asked for, in order: what the decoder knows.
    #[must_use]
    pub fn asked(&self) -> &[&'static str] {
        &self.asked
    }

    /// Ends the decoding.
    ///
    /// # Errors
    /// The first field that nobody asked for: a typo must not be silently ignored.
    pub fn finish(self) -> Result<(), Error> {
        match self.members.into_iter().next() {
            None => Ok(()),
            Some((unknown, _)) => {
                Err(Error::field(&unknown, format!("is unknown here; known are: {}", self.asked.join(", "))))
            }
        }
    }
}

/// Checks that a text holds nothing of a well-known form of a secret. (Whoever decodes requests is a hub, and has the forms.)
fn holds_no_secret(name: &str, text: &str) -> Result<(), Error> {
    #[cfg(feature = "server")]
    if crate::domain::secrets::has_a_form(text) {
        return Err(Error::secret_detected(name, "leave it out", vec![format!("/{name}")]));
    }
    let _ = (name, text);
    Ok(())
}
