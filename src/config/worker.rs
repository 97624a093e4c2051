super::section! {
    /// The workers that do the jobs.
    WorkerConfig, "worker" {
        /// Jobs done at once by one worker process. Default: 2.
        concurrency: usize = 2;
        /// Seconds after which a worker that gives no sign of life loses its job to another. Default: 60.
        lease_seconds: u64 = 60;
        /// Seconds between looks into the queue when no notification comes. Default: 5.
        poll_seconds: u64 = 5;
        /// Attempts at a job before it fails. Default: 3.
        max_attempts: i32 = 3;
        /// Base of the exponential backoff between attempts, in seconds. Default: 10.
        backoff_seconds: u64 = 10;
        /// Seconds that a stopping worker gives its running jobs before it hands them back. Default: 30.
        shutdown_seconds: u64 = 30;
        /// Whether `serve` works on jobs too. Default: `true`.
        in_serve: bool = true;
    }
}
