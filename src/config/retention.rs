super::section! {
    /// What is kept, beside the days of `backup.retention_days`: a backup is kept as long as any rule keeps it. A project or a schedule may
    /// have rules of its own, which then apply alone.
    RetentionConfig, "retention" {
        /// Good backups of a project and type that are always kept, however old. Default: 1.
        minimum_good: u32 = 1;
        /// Keep this many of the newest backups. Default: no such rule.
        keep_last: Option<u32> = None;
        /// Keep the newest backup of each of this many days, in the schedule's time zone. Default: no such rule.
        keep_daily: Option<u32> = None;
        /// Keep the newest backup of each of this many weeks, Monday to Sunday. Default: no such rule.
        keep_weekly: Option<u32> = None;
        /// Keep the newest backup of each of this many months. Default: no such rule.
        keep_monthly: Option<u32> = None;
        /// Keep the newest backup of each of this many years. Default: no such rule.
        keep_yearly: Option<u32> = None;
        /// Days before its expiry at which a backup is announced, once. 0: never. Default: 7.
        warn_days: u32 = 7;
    }
}

impl RetentionConfig {
    /// What is wrong with it.
    pub(super) fn check(&self) -> Result<(), String> {
        for (name, value, low, high) in [
            ("minimum_good", Some(self.minimum_good), 1, 1_000),
            ("keep_last", self.keep_last, 1, 10_000),
            ("keep_daily", self.keep_daily, 1, 10_000),
            ("keep_weekly", self.keep_weekly, 1, 10_000),
            ("keep_monthly", self.keep_monthly, 1, 10_000),
            ("keep_yearly", self.keep_yearly, 1, 10_000),
            ("warn_days", Some(self.warn_days), 0, 365),
        ] {
            if let Some(value) = value
                && !(low..=high).contains(&value)
            {
                return Err(format!("retention.{name} is {value}: use {low} to {high}"));
            }
        }
        Ok(())
    }
}
