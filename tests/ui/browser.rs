//! Debian's Chromium, headless, with a fresh profile, and the driver that steers it; ended with everything that they started.

use std::{
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::TempDir;
use thirtyfour::prelude::*;

/// Longest wait for something to be seen.
const LIMIT: Duration = Duration::from_secs(20);

pub struct Browser {
    pub driver: WebDriver,
    base: String,
    process: Child,
    pub downloads: TempDir,
    _profile: TempDir,
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver, the browser and all of its processes are one group.
        if let Some(group) = rustix::process::Pid::from_raw(self.process.id().cast_signed()) {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        let _ = self.process.wait();
    }
}

fn start_driver() -> (Child, u16) {
    let mut process = Command::new("chromedriver")
        .arg("--port=0")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .expect("chromedriver is there: scripts/setup installs chromium-driver");
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let port = lines
        .by_ref()
        .map_while(Result::ok)
        .find_map(|line| line.strip_suffix('.')?.rsplit_once("on port ")?.1.parse().ok())
        .expect("chromedriver says its port");
    // What it says later is read, so that it never waits for a reader.
    std::thread::spawn(move || lines.for_each(drop));
    (process, port)
}

impl Browser {
    /// A browser that is to look at the server at `base`.
    pub async fn start(base: &str) -> Self {
        let (process, port) = start_driver();
        let (profile, downloads) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut wanted = DesiredCapabilities::chrome();
        wanted.set_binary("/usr/bin/chromium").unwrap();
        let profile_flag = format!("--user-data-dir={}", profile.path().display());
        for flag in [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--window-size=1360,900",
            profile_flag.as_str(),
        ] {
            wanted.add_arg(flag).unwrap();
        }
        let preferences =
            json!({ "download.default_directory": downloads.path(), "download.prompt_for_download": false });
        wanted.add_experimental_option("prefs", preferences).unwrap();
        let driver = WebDriver::new(format!("http://127.0.0.1:{port}"), wanted).await.unwrap();
        Self { driver, base: base.to_owned(), process, downloads, _profile: profile }
    }

    pub async fn end(self) {
        let _ = self.driver.clone().quit().await;
    }

    pub async fn go(&self, path: &str) {
        self.driver.goto(format!("{}{path}", self.base)).await.unwrap();
    }

    /// The path and query that the browser is at.
    pub async fn at(&self) -> String {
        let url = self.driver.current_url().await.unwrap();
        url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()))
    }

    /// What all of the page says.
    pub async fn text(&self) -> String {
        self.script("return document.body ? document.body.innerText : ''").await.as_str().unwrap_or_default().to_owned()
    }

    pub async fn script(&self, script: &str) -> Value {
        self.driver.execute(script, Vec::<Value>::new()).await.map_or(Value::Null, |found| found.json().clone())
    }

    /// Waits until the page says `words`.
    pub async fn sees(&self, words: &str) {
        self.until(&format!("to see {words:?}"), async || self.text().await.contains(words)).await;
    }

    /// Waits until the browser is at a path that begins so.
    pub async fn arrives(&self, path: &str) {
        self.until(&format!("to arrive at {path}"), async || self.at().await.starts_with(path)).await;
    }

    pub async fn until(&self, what: &str, is_so: impl AsyncFn() -> bool) {
        let started = Instant::now();
        while !is_so().await {
            if started.elapsed() > LIMIT {
                panic!("waited for {what} at {}, which says: {}", self.at().await, self.text().await);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Types into the field of this name, in the place of what was there.
    pub async fn types(&self, name: &str, text: &str) {
        let field = self.driver.find(By::Css(format!("main [name='{name}']"))).await.unwrap();
        field.clear().await.unwrap();
        field.send_keys(text).await.unwrap();
    }

    /// Clicks the button or link in the page's content that says this.
    pub async fn clicks(&self, words: &str) {
        let path = format!("//main//*[self::a or self::button][starts-with(normalize-space(), '{words}')]");
        match self.driver.find(By::XPath(path)).await {
            Ok(found) => found.click().await.unwrap(),
            Err(error) => panic!("{error}: {words:?} at {}, which says: {}", self.at().await, self.text().await),
        }
    }

    pub async fn logs_in(&self, name: &str, password: &str) {
        self.types("name", name).await;
        self.types("password", password).await;
        self.clicks("Log in").await;
    }

    /// Follows the system's theme: `light` or `dark`.
    pub async fn theme(&self, theme: &str) {
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": theme }] });
        self.command("Emulation.setEmulatedMedia", features).await;
    }

    /// A screen of this size, in pixels.
    pub async fn screen(&self, width: u32, height: u32) {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600 });
        self.command("Emulation.setDeviceMetricsOverride", size).await;
    }

    pub async fn command(&self, name: &str, parameters: Value) -> Value {
        self.driver.cdp().send_raw(name, parameters).await.unwrap()
    }

    /// Asserts that an accessibility checker finds nothing serious on this page, in both themes.
    pub async fn is_accessible(&self, axe: &str) {
        for theme in ["light", "dark"] {
            self.theme(theme).await;
            // Through the driver, which the page's policy does not hold back.
            self.driver.execute(axe, Vec::<Value>::new()).await.unwrap();
            let run = "const done = arguments[arguments.length - 1]; axe.run(document, { resultTypes: ['violations'] }).then((found) => done(found.violations.filter((v) => v.impact === 'serious' || v.impact === 'critical').map((v) => v.id + ': ' + v.help + ' ' + v.nodes.slice(0, 4).map((n) => n.html.slice(0, 200) + ' ' + n.failureSummary).join(' | '))), (error) => done([String(error)]))";
            let found = self.driver.execute_async(run, Vec::<Value>::new()).await.unwrap();
            assert_eq!(found.json(), &json!([]), "{theme} {}", self.at().await);
        }
        self.theme("light").await;
    }
}
