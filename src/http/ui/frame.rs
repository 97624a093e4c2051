//! What stands around every page: title, navigation, who is logged in, a message.

use super::{assets, once};

/// Where in the navigation a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Overview,
    Projects,
    Backups,
    Jobs,
    Schedules,
    Retention,
    Storages,
    Databases,
    Channels,
    People,
    Keys,
    Audit,
    Account,
    /// Before anyone is logged in, and where nothing is.
    Outside,
}

/// One entry of the navigation.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    pub path: &'static str,
    pub text: &'static str,
    pub is_here: bool,
}

/// Who sees an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum For {
    Everyone,
    Admins,
    Operators,
}

const ENTRIES: [(Place, &str, &str, For); 12] = [
    (Place::Overview, "/", "Overview", For::Everyone),
    (Place::Projects, "/projects", "Projects", For::Everyone),
    (Place::Backups, "/backups", "Backups", For::Everyone),
    (Place::Jobs, "/jobs", "Jobs", For::Everyone),
    (Place::Schedules, "/schedules", "Schedules", For::Everyone),
    (Place::Retention, "/retention", "Retention", For::Everyone),
    (Place::Storages, "/storages", "Storages", For::Operators),
    (Place::Databases, "/databases", "Databases", For::Operators),
    (Place::Channels, "/channels", "Notices", For::Admins),
    (Place::People, "/people", "People", For::Admins),
    (Place::Keys, "/keys", "API keys", For::Everyone),
    (Place::Audit, "/audit", "Audit trail", For::Admins),
];

/// Beside a page's own content.
#[derive(Clone, Debug)]
pub struct Frame {
    /// May come from outside; its marks of direction are taken out.
    pub title: String,
    pub here: Place,
    /// `None`: nobody is logged in, and there is no navigation.
    pub who: Option<String>,
    pub is_operator: bool,
    pub is_admin: bool,
    pub flash: Option<String>,
}

impl Frame {
    /// Around a page for nobody in particular.
    pub fn outside(title: &str) -> Self {
        Self {
            title: title.to_owned(),
            here: Place::Outside,
            who: None,
            is_operator: false,
            is_admin: false,
            flash: None,
        }
    }

    pub fn entries(&self) -> Vec<Entry> {
        let is_for = |whom: For| match whom {
            For::Everyone => true,
            For::Admins => self.is_admin,
            For::Operators => self.is_operator,
        };
        let entries = ENTRIES.into_iter().filter(|(_, _, _, whom)| is_for(*whom));
        entries.map(|(place, path, text, _)| Entry { path, text, is_here: place == self.here }).collect()
    }

    /// For a form of this page: sent twice, it does what it does once.
    pub fn attempt(&self) -> String {
        once::attempt()
    }

    /// Where a file of `assets/` is.
    pub fn asset(&self, name: &str) -> &'static str {
        assets::path(name)
    }
}
