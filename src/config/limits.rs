super::section! {
    /// How much one caller may ask for. 0 is no limit. Whoever comes too often is answered with 429 and told how long to wait.
    LimitsConfig, "limits" {
        /// Calls of one caller a minute: of one token's subject, one user or one API key. A sixth of them may come at once.
        /// Default: 3000.
        requests_per_minute: u32 = 3_000;
        /// Calls from one address a minute that come with no valid token, logins among them. Those of a whole IPv6 /64 count together.
        /// A sixth may come at once. Default: 300.
        anonymous_requests_per_minute: u32 = 300;
        /// Jobs of one project that wait or run at once; deletions are counted by themselves. Default: 20.
        jobs_per_project: u32 = 20;
        /// Refusals of one caller a minute that are written into the audit trail one by one. The others are counted, and the counts are
        /// written. Default: 60.
        refusals_per_minute: u32 = 60;
    }
}
