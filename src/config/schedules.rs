use crate::cron::{Cron, CronError, Zone};

super::section! {
    /// When backups are taken without anyone asking, and how old the newest good one may become.
    SchedulesConfig, "schedules" {
        /// The time zone of schedules that name none: a name of the IANA database, such as `Europe/Berlin`. Default: `UTC`.
        zone: String = "UTC".to_owned();
        /// When every project without a schedule of its own is backed up: a cron expression of five fields; or `off`. A project's setting
        /// `schedule_default = "off"` leaves that project out. Default: `0 2 * * *`, daily at 02:00.
        schedule_default: String = "0 2 * * *".to_owned();
        /// The window over which the projects of one schedule are spread, in minutes from its time on. Each project keeps its place in it.
        /// 0: all at once. A schedule may have its own. Default: 120.
        jitter_minutes: u32 = 120;
        /// How late a missed time is caught up, in hours; of several that were missed only the newest. Default: 12.
        grace_hours: u32 = 12;
        /// Age of the newest good backup at which a project is called stale, in hours. A project's setting `allowed_age_hours` comes first; 0
        /// there means never. Default: 24 hours and the window of `jitter_minutes`.
        allowed_age_hours: Option<u32> = None;
        /// Seconds between looks at what is due. Default: 15.
        tick_seconds: u64 = 15;
        /// Whether schedules and retention stand still in a process whose clock is more than five minutes off the database's. Default: true.
        check_clock: bool = true;
    }
}

impl SchedulesConfig {
    /// # Errors
    /// There is no such zone.
    pub fn zone(&self) -> Result<Zone, CronError> {
        self.zone.parse()
    }

    /// When projects without a schedule of their own are backed up. `None`: they are not.
    ///
    /// # Errors
    /// It is no expression.
    pub fn default_cron(&self) -> Result<Option<Cron>, CronError> {
        if self.schedule_default == "off" { Ok(None) } else { self.schedule_default.parse().map(Some) }
    }

    /// The age at which a project without a setting of its own is stale.
    pub fn allowed_age(&self) -> chrono::Duration {
        match self.allowed_age_hours {
            Some(hours) => chrono::Duration::hours(i64::from(hours)),
            None => chrono::Duration::hours(24) + chrono::Duration::minutes(i64::from(self.jitter_minutes)),
        }
    }

    /// What is wrong with it.
    pub(super) fn check(&self) -> Result<(), String> {
        self.zone().map_err(|error| format!("schedules.zone: {error}"))?;
        self.default_cron().map_err(|error| format!("schedules.schedule_default: {error}"))?;
        for (name, value, low, high) in [
            ("jitter_minutes", u64::from(self.jitter_minutes), 0, 1_440),
            ("grace_hours", u64::from(self.grace_hours), 0, 168),
            ("allowed_age_hours", u64::from(self.allowed_age_hours.unwrap_or(1)), 1, 8_784),
            ("tick_seconds", self.tick_seconds, 1, 300),
        ] {
            if !(low..=high).contains(&value) {
                return Err(format!("schedules.{name} is {value}: use {low} to {high}"));
            }
        }
        Ok(())
    }
}
