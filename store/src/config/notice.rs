//! What reading the configuration has to say, kept until there is a log to say it in.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Info,
    Warn,
}

/// A line for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    pub level: Level,
    pub message: String,
    /// Names and values, in order.
    pub fields: Vec<(&'static str, String)>,
}

impl Notice {
    #[must_use]
    pub fn info(message: impl Into<String>, fields: &[(&'static str, &str)]) -> Self {
        Self::new(Level::Info, message, fields)
    }

    #[must_use]
    pub fn warn(message: impl Into<String>, fields: &[(&'static str, &str)]) -> Self {
        Self::new(Level::Warn, message, fields)
    }

    fn new(level: Level, message: impl Into<String>, fields: &[(&'static str, &str)]) -> Self {
        let fields = fields.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        Self { level, message: message.into(), fields }
    }
}
