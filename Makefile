# What people run. `make demo` and `make test` work on a fresh Debian or Ubuntu with Rust.

.PHONY: demo demo-telegram test test-slow test-faults test-versions bench bench-api bench-schedule bench-ui regenerate screenshots check-contrib check-licenses setup

# A debug build: there sooner than a release build. The dependencies that do the heavy work are optimised in it as well
# (`profile.dev.package` in Cargo.toml).
demo: setup
	@cargo build --locked
	@cargo run --quiet --locked -- demo $(DEMO_ARGS)

# A backup to a Telegram channel and back, with a stand-in of the Bot API: no account is needed.
demo-telegram: setup
	@scripts/demo-telegram

test: setup
	@scripts/test

test-slow: setup
	@scripts/test-slow

# Every fault at every stage of a restore, both ways: 98 of them, ten to fifteen minutes. `make test` has a short form of it.
test-faults: setup
	@scripts/test-faults

# Against the other versions of PostgreSQL, which it downloads (55 MB): `make test-versions ROWS="17 15/18"`, or all.
test-versions: setup
	@scripts/test-versions $(ROWS)

bench:
	@scripts/setup bench
	@cargo bench --locked --bench backup -- $(BENCH_ARGS)

# What one tick of the scheduler costs with 10,000 projects, and how their starts are spread.
bench-schedule: setup
	@cargo bench --locked --bench schedule

# The API with a million backups: HOLDFAST_BENCH_BACKUPS, HOLDFAST_BENCH_SECONDS and more make it shorter (benches/api/main.rs).
bench-api: setup
	@cargo bench --locked --bench api -- $(BENCH_ARGS)

# The pages of the web interface with a million backups.
bench-ui: setup
	@HOLDFAST_BENCH_ONLY=page: cargo bench --locked --bench api -- $(BENCH_ARGS)

# Every page in both themes and at phone width, into target/screenshots.
screenshots: setup
	@scripts/screenshots

regenerate: setup
	@scripts/regenerate

# The systemd units, as systemd reads them.
check-contrib:
	@scripts/check-contrib

# The check for advisories needs the network: `cargo deny check advisories`.
check-licenses:
	@if cargo deny --version >/dev/null 2>&1; then cargo deny check bans licenses sources; \
	else echo "cargo-deny is not installed: cargo install cargo-deny" >&2; fi

setup:
	@scripts/setup
