//! All integration tests, as modules of one program: it is compiled and linked once, and what tests share with it. `nextest` runs each test
//! in a process of its own.

mod adoption;
mod api;
mod architecture;
mod audit;
mod auth;
mod auth_cli;
mod authorization;
mod bad_input;
mod catalog;
mod cli;
mod conformance;
mod copies;
mod deletion;
mod demo;
mod documents;
mod embedded;
mod failures;
mod faulty_proxy;
mod files;
mod http;
mod integration;
mod kill;
mod limits;
mod logs;
mod management;
mod metrics;
mod people;
mod pg_dump;
mod pipeline;
mod query_plans;
mod queue;
mod recovery;
mod restore_engine;
mod retention;
mod roundtrip;
mod s3;
mod s3_backup;
#[cfg(feature = "slow-tests")]
mod s3_gateway;
mod schedule;
mod second_machine;
mod secrets;
mod single;
mod storage_contract;
mod storage_faults;
mod support;
mod telegram;
mod telegram_jobs;
mod telegram_stand_in;
#[cfg(feature = "otel")]
mod telemetry;
mod tls;
