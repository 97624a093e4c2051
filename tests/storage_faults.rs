//! What can go wrong between a remote storage and its server, at every request of every operation. Whatever happens: the operation ends
//! in time, with exactly the right bytes or with an error of the right kind; a failed upload publishes nothing, or, when the answer was
//! lost, what it published is found and is right; the sweep removes the rest; and the next attempt works.

mod scene;

use crate::support::{faulty_proxy, s3_server, telegram_stand_in};

use std::time::{Duration, Instant};

use bytes::Bytes;
use faulty_proxy::{End, Fault};
use futures::{StreamExt, stream};
use holdfast::{
    artifact::Fingerprint,
    storage::{Error, ErrorKind, Locator, Storage, fingerprint},
};
use scene::{Done, Kind, Op, Said, Scene, TIMEOUT, later, name, put, read};

/// Scenes under way at once: most of the time they wait. Those of S3 have more bytes.
const fn at_once(kind: Kind) -> usize {
    match kind {
        Kind::S3 => 12,
        Kind::Telegram => 24,
    }
}
/// The longest time that an operation may take: several of its requests may each need the timeout, and a document is sent three times.
const MOST: Duration = Duration::from_secs(TIMEOUT.as_secs() * 5);
/// `Retry-After`, in seconds: one that is waited out, and one that is not.
const SHORT: u64 = 1;
const LONG: u64 = 3_600;

/// Goes wrong once. The order is that of a row's cells.
fn once(of: &str) -> [Fault; 13] {
    let body = of_body(of);
    [
        Fault::Slow { bytes_per_second: body * 4 },
        Fault::ResetRequestAt(0),
        Fault::ResetRequestAt(body / 2),
        Fault::ResetAnswerAt(0),
        Fault::ResetAnswerAt(20),
        Fault::Status { status: 500, content_type: "text/plain", body: "out of order".into() },
        Fault::TooManyRequests { retry_after: SHORT },
        Fault::TruncateAnswer { keep: 20, end: End::Lies },
        Fault::TruncateAnswer { keep: 20, end: End::Closes },
        Fault::CorruptAnswer { at: 30 },
        Fault::CorruptRequest { at: body / 2 },
        Fault::DropAnswer,
        Fault::Hang,
    ]
}

/// Goes wrong every time.
fn always() -> [Fault; 6] {
    [
        Fault::Status { status: 500, content_type: "text/plain", body: "out of order".into() },
        Fault::TooManyRequests { retry_after: LONG },
        Fault::Status { status: 200, content_type: "application/json", body: String::new() },
        Fault::ResetAnswerAt(0),
        Fault::DropAnswer,
        Fault::Hang,
    ]
}

/// About how many bytes the larger one of a request and its answer has.
fn of_body(of: &str) -> u64 {
    match of {
        "UploadPart" => scene::S3_PART as u64,
        _ => scene::small().len() as u64,
    }
}

/// An operation, the request of it that goes wrong, how many of these go well first, and how it ends: a cell for each fault of [`once`],
/// then one for each of [`always`].
///
/// - `ok`: done, and right;
/// - `pass`: [`ErrorKind::Unavailable`], nothing published;
/// - `pass*`: the same, but published: `find` and `fingerprint` tell that it is there and whole;
/// - `later`: [`ErrorKind::Throttled`] with the time that the server asked for;
/// - `corrupt`: [`ErrorKind::Corrupt`], nothing published;
/// - `told`: done with altered bytes, which are only told by their fingerprint. An upload to S3 is never so: its checksum goes with it;
/// - `a/b`: one of them, as a reset may or may not overtake what was sent before it;
/// - `-`: the request or its answer has no such bytes.
type Row = (Op, &'static str, usize, &'static str, &'static str);

#[rustfmt::skip]
const S3: &[Row] = &[
    //                                           slow re@0 re@k an@0      an@k      500 429 lies  cut   flip up lost  hang    500  429   200  an@0 lost  hang
    (Op::Create,    "HeadObject", 0,              "ok ok   -    ok        ok        ok  ok  -     -     -    -  ok    ok", "pass later pass ok/pass pass  pass"),
    (Op::Put,       "PutObject", 0,               "ok ok   ok   ok/pass*  ok/pass*  ok  ok  -     -     -    ok pass* pass", "pass later pass ok/pass* pass* pass"),
    (Op::PutLarge,  "CreateMultipartUpload", 0,   "ok ok   -    pass/ok   pass/ok   ok  ok  pass  ok    -    -  ok    ok", "pass later pass pass    pass  pass"),
    (Op::PutLarge,  "UploadPart", 1,              "ok ok   ok   ok        ok        ok  ok  -     -     -    ok ok    ok", "pass later pass ok/pass pass  pass"),
    (Op::PutLarge,  "CompleteMultipartUpload", 0, "ok ok   ok   pass*     pass*     ok  ok  pass* pass* -    -  pass* pass", "pass later pass pass*   pass* pass"),
    (Op::Abort,     "AbortMultipartUpload", 0,    "ok ok   -    ok        ok        ok  ok  -     -     -    -  ok    ok", "ok   ok    -    ok      ok    ok"),
    (Op::Open,      "GetObject", 0,               "ok ok   -    ok        ok        ok  ok  pass  ok    told -  ok    ok", "pass later pass pass    pass  pass"),
    (Op::OpenRange, "GetObject", 0,               "ok ok   -    ok        ok        ok  ok  pass  ok    told -  ok    ok", "pass later pass pass    pass  pass"),
    (Op::Stat,      "HeadObject", 0,              "ok ok   -    ok        ok        ok  ok  -     -     -    -  ok    ok", "pass later pass ok/pass pass  pass"),
    (Op::Find,      "HeadObject", 0,              "ok ok   -    ok        ok        ok  ok  -     -     -    -  ok    ok", "pass later pass ok/pass pass  pass"),
    (Op::Delete,    "DeleteObject", 0,            "ok ok   -    ok        ok        ok  ok  -     -     -    -  ok    ok", "pass later -    ok/pass pass  pass"),
    (Op::Manifests, "ListObjectsV2", 0,           "ok ok   -    pass/ok   pass/ok   ok  ok  pass  ok    -    -  ok    ok", "pass later pass pass    pass  pass"),
    (Op::Sweep,     "AbortMultipartUpload", 0,    "ok ok   -    ok        ok        ok  ok  -     -     -    -  ok    ok", "pass later -    ok/pass pass  pass"),
];

#[rustfmt::skip]
const TELEGRAM: &[Row] = &[
    //                                   slow re@0 re@k an@0 an@k 500 429 lies cut flip up      lost hang    500  429   200     an@0 lost hang
    (Op::Create,    "getchat", 0,        "ok   ok   ok   ok   ok   ok  ok  ok   ok  ok   -       ok   pass", "pass later pass    pass pass pass"),
    (Op::Put,       "senddocument", 0,   "ok   ok   ok   ok   ok   ok  ok  ok   ok  ok   corrupt ok   ok",   "pass later pass    pass pass pass"),
    (Op::Put,       "senddocument", 1,   "ok   ok   ok   ok   ok   ok  ok  ok   ok  ok   -       ok   ok",   "pass later pass    pass pass pass"),
    (Op::Put,       "pinchatmessage", 0, "ok   ok   ok   ok   ok   ok  ok  ok   ok  -    -       ok   pass", "pass later pass    ok   ok   pass"),
    (Op::Put,       "getfile", 1,        "ok   ok   ok   ok   ok   ok  ok  ok   ok  ok   -       ok   pass", "pass later pass    pass pass pass"),
    (Op::Put,       "file", 1,           "ok   ok   -    ok   ok   ok  ok  ok   ok  ok   -       ok   pass", "pass later corrupt pass pass pass"),
    (Op::Put,       "deletemessages", 0, "ok   ok   ok   ok   ok   ok  ok  ok   ok  -    -       ok   ok",   "ok   ok    ok      ok   ok   ok"),
    (Op::PutLarge,  "senddocument", 1,   "ok   ok   ok   ok   ok   ok  ok  ok   ok  ok   told    ok   ok",   "pass later pass    pass pass pass"),
    (Op::PutLarge,  "senddocument", 2,   "ok   ok   ok   ok   ok   ok  ok  ok   ok  ok   -       ok   ok",   "pass later pass    pass pass pass"),
    (Op::Abort,     "deletemessages", 0, "ok   ok   ok   ok   ok   ok  ok  ok   ok  -    -       ok   ok",   "ok   ok    ok      ok   ok   ok"),
    (Op::Open,      "getfile", 1,        "ok   ok   ok   ok   ok   ok  ok  ok   ok  ok   -       ok   pass", "pass later pass    pass pass pass"),
    (Op::Open,      "file", 1,           "ok   ok   -    ok   ok   ok  ok  ok   ok  ok   -       ok   pass", "pass later corrupt pass pass pass"),
    (Op::OpenRange, "file", 1,           "ok   ok   -    ok   ok   ok  ok  ok   ok  ok   -       ok   pass", "pass later corrupt pass pass pass"),
    (Op::Stat,      "getfile", 1,        "ok   ok   ok   ok   ok   ok  ok  ok   ok  ok   -       ok   pass", "pass later pass    pass pass pass"),
    (Op::Find,      "getchat", 0,        "ok   ok   ok   ok   ok   ok  ok  ok   ok  ok   -       ok   pass", "pass later pass    pass pass pass"),
    (Op::Find,      "file", 0,           "ok   ok   -    ok   ok   ok  ok  ok   ok  ok   -       ok   ok",   "pass later corrupt pass pass pass"),
    (Op::Delete,    "senddocument", 0,   "ok   ok   ok   ok   ok   ok  ok  ok   ok  ok   -       ok   ok",   "pass later pass    pass pass pass"),
    (Op::Delete,    "pinchatmessage", 0, "ok   ok   ok   ok   ok   ok  ok  ok   ok  -    -       ok   pass", "pass later pass    ok   ok   pass"),
    (Op::Delete,    "deletemessages", 1, "ok   ok   ok   ok   ok   ok  ok  ok   ok  -    -       ok   pass", "pass later pass    pass pass pass"),
    (Op::Manifests, "file", 0,           "ok   ok   -    ok   ok   ok  ok  ok   ok  ok   -       ok   ok",   "pass later corrupt pass pass pass"),
    (Op::Sweep,     "forwardmessage", 0, "ok   ok   ok   ok   ok   ok  ok  ok   ok  ok   -       ok   pass", "pass later pass    pass pass pass"),
    (Op::Sweep,     "deletemessages", 0, "ok   ok   ok   ok   ok   ok  ok  ok   ok  -    -       ok   ok",   "pass later pass    pass pass pass"),
];

#[tokio::test]
async fn s3_gets_over_what_goes_wrong_once() {
    table(Kind::S3, S3, false).await;
}

#[tokio::test]
async fn s3_tells_of_what_goes_wrong_always() {
    table(Kind::S3, S3, true).await;
}

#[tokio::test]
async fn telegram_gets_over_what_goes_wrong_once() {
    table(Kind::Telegram, TELEGRAM, false).await;
}

#[tokio::test]
async fn telegram_tells_of_what_goes_wrong_always() {
    table(Kind::Telegram, TELEGRAM, true).await;
}

/// Every fault at every row; all that is not as the table says is told at the end.
async fn table(kind: Kind, rows: &[Row], lasting: bool) {
    let said = Said::default();
    let _listening = said.listen();
    let mut cases = Vec::new();
    for (op, of, skip, single, repeated) in rows {
        let faults: Vec<Fault> = if lasting { always().into() } else { once(of).into() };
        let cells: Vec<&str> = if lasting { repeated } else { single }.split_whitespace().collect();
        assert_eq!(cells.len(), faults.len(), "{op:?} {of}");
        let case = |(fault, expected)| Case { kind, op: *op, of, skip: *skip, fault, lasting, expected };
        cases.extend(faults.into_iter().zip(cells).map(case).filter(|case| case.expected != "-"));
    }
    let outcomes: Vec<_> = stream::iter(cases)
        .map(|case| async { (case.run(&said).await, case) })
        .buffer_unordered(at_once(kind))
        .collect()
        .await;
    let (mut wrong, mut secrets) = (Vec::new(), Vec::new());
    for (seen, case) in outcomes {
        if !seen.wrong.is_empty() {
            wrong.push(format!(
                "{:?}, {} {}, {:?}: {}",
                case.op,
                case.of,
                case.skip,
                case.fault,
                seen.wrong.join("; ")
            ));
        }
        secrets.extend(seen.secrets);
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    said.holds_none_of(&secrets);
}

/// One operation with one fault.
struct Case {
    kind: Kind,
    op: Op,
    of: &'static str,
    skip: usize,
    fault: Fault,
    lasting: bool,
    expected: &'static str,
}

/// How a case ended.
#[derive(Default)]
struct Seen {
    /// What should not be.
    wrong: Vec<String>,
    secrets: Vec<String>,
}

impl Case {
    async fn run(&self, said: &Said) -> Seen {
        let Self { kind, op, of, skip, .. } = *self;
        let (scene, mut wrong) = (Scene::new(kind).await, Vec::new());
        let mut live = op.prepare(kind, &*scene.patient()).await;
        let storage = scene.storage();
        let times = if self.lasting { usize::MAX / 2 } else { 1 };
        scene.inject(self.fault.clone(), of, skip, times);
        let (asked, begun) = (scene.times_of(of).len(), Instant::now());
        let outcome = op.run(kind, &*storage, &live).await;
        let took = begun.elapsed();
        if took > MOST {
            wrong.push(format!("took {took:?}"));
        }
        if scene.faults_left() == times {
            wrong.push("the fault was not met".to_owned());
        }
        if let (Fault::TooManyRequests { .. }, false, [first, second, ..]) =
            (&self.fault, self.lasting, &scene.times_of(of)[asked + skip..])
            && *second - *first < Duration::from_secs(SHORT)
        {
            wrong.push(format!("asked again after {:?}", *second - *first));
        }
        // From here on everything works, and another process looks.
        scene.proxy.clear();
        let clean = scene.patient();
        let (mut word, published, told) = match outcome {
            Ok(Done::Right) => ("ok", None, String::new()),
            Ok(Done::Altered) => ("told", None, String::new()),
            Ok(Done::Wrong) => ("wrong", None, String::new()),
            Ok(Done::Published(at)) => ("ok", Some(at), String::new()),
            Err(error) => {
                said.error(&error);
                (word_of(error.kind), None, error.to_string())
            }
        };
        if let Some((key, bytes)) = op.object(kind) {
            match after_upload(&*clean, key, &bytes, published).await {
                Ok((at, after)) => {
                    live.push(at);
                    word = match (word, after) {
                        ("pass", After::Found) => "pass*",
                        ("ok", After::Altered) => "told",
                        ("ok", After::Found) | (_, After::Again) => word,
                        _ => "published in spite of it",
                    };
                }
                Err(what) => wrong.push(what),
            }
        }
        if op == Op::Delete {
            let gone = clean.delete(&live.remove(0)).await;
            wrong.extend(gone.err().map(|error| format!("the second attempt: {error}")));
        }
        if !self.expected.split('/').any(|expected| expected == word) {
            wrong.insert(0, format!("{word} {told}, not {}", self.expected));
        }
        wrong.extend(aftermath(&scene, &*clean, kind, &live, of == "CreateMultipartUpload").await);
        Seen { wrong, secrets: scene.secrets() }
    }
}

fn word_of(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Unavailable => "pass",
        ErrorKind::Corrupt => "corrupt",
        ErrorKind::Throttled { retry_after: Some(wait) } if wait == Duration::from_secs(LONG) => "later",
        kind => kind.code(),
    }
}

/// Sweeps, then looks what is left at the server and whether every object is whole; gives what should not be.
async fn aftermath(
    scene: &Scene,
    storage: &dyn Storage,
    kind: Kind,
    live: &[Locator],
    may_leave_an_upload: bool,
) -> Vec<String> {
    let mut wrong = Vec::new();
    wrong.extend(storage.sweep_temporary(later()).await.err().map(|error| format!("the sweep: {error}")));
    let mut litter = scene.litter(live);
    if may_leave_an_upload {
        // When the answer that tells an upload's id is lost, nobody can end it, and S3 keeps it; it holds no byte.
        litter.retain(|what| what != "an upload");
    }
    if !litter.is_empty() {
        wrong.push(format!("left: {litter:?}"));
    }
    for at in live {
        match read(storage, at).await {
            Ok(bytes) if bytes == content_of(kind, at) => {}
            Ok(_) => wrong.push(format!("{} reads back differently", at.key())),
            Err(error) => wrong.push(format!("{} cannot be read any more: {error}", at.key())),
        }
    }
    wrong
}

/// What an upload left under its final name: nothing, then a second attempt publishes it; or what was sent.
async fn after_upload(
    storage: &dyn Storage,
    key: &str,
    bytes: &Bytes,
    published: Option<Locator>,
) -> Result<(Locator, After), String> {
    let again = async || put(storage, key, bytes.clone()).await.map_err(|error| format!("the second attempt: {error}"));
    let found = storage.find(&name(key)).await.map_err(|error| format!("find: {error}"))?;
    if published.is_some() && published != found {
        return Err(format!("{key} was published and is not found"));
    }
    let Some(at) = found else { return Ok((again().await?, After::Again)) };
    match fingerprint(storage, &at).await {
        Ok(is) if is == Fingerprint::of(bytes) => Ok((at, After::Found)),
        Ok(_) => Err(format!("{key} was published with other bytes")),
        Err(error) if error.kind == ErrorKind::Corrupt && published.is_some() => {
            storage.delete(&at).await.map_err(|error| format!("deleting it: {error}"))?;
            Ok((again().await?, After::Altered))
        }
        Err(error) => Err(format!("{key} was published and cannot be read: {error}")),
    }
}

/// What an upload left under its final name.
enum After {
    /// What was sent.
    Found,
    /// Nothing: it was sent again.
    Again,
    /// What reads back as corrupt: it was deleted and sent again.
    Altered,
}

fn content_of(kind: Kind, at: &Locator) -> Bytes {
    if at.key().as_str() == scene::LARGE { scene::large(kind) } else { scene::small() }
}

/// Wherever a connection is reset, the first attempt ends well or with an error that may pass, and the second one ends well.
async fn a_reset_anywhere(kind: Kind, object: Op, positions: &[u64]) {
    let (key, bytes) = &object.object(kind).unwrap();
    let round_trip = &async |storage: &dyn Storage| {
        let at = put(storage, key, bytes.clone()).await?;
        Ok::<_, Error>(read(storage, &at).await? == *bytes)
    };
    let rehearsal = Scene::new(kind).await;
    assert!(round_trip(&*rehearsal.patient()).await.unwrap());
    let mut cases = Vec::new();
    for request in 0..rehearsal.proxy.requests() {
        for at in positions.iter().copied() {
            cases.extend([(request, Fault::ResetRequestAt(at)), (request, Fault::ResetAnswerAt(at))]);
        }
    }
    let run = |(request, fault): (usize, Fault)| async move {
        let scene = Scene::new(kind).await;
        scene.inject(fault.clone(), "any", request, 1);
        let mut wrong = Vec::new();
        match round_trip(&*scene.storage()).await {
            Ok(true) => {}
            Ok(false) => wrong.push("other bytes came back".to_owned()),
            Err(error) if error.kind == ErrorKind::Unavailable => {}
            Err(error) => wrong.push(error.to_string()),
        }
        scene.proxy.clear();
        let clean = scene.patient();
        match after_upload(&*clean, key, bytes, None).await {
            Ok((at, After::Found | After::Again)) => {
                wrong.extend(aftermath(&scene, &*clean, kind, &[at], kind == Kind::S3).await);
            }
            Ok((_, After::Altered)) => wrong.push("it was altered".to_owned()),
            Err(what) => wrong.push(what),
        }
        (!wrong.is_empty()).then(|| format!("request {request}, {fault:?}: {}", wrong.join("; ")))
    };
    let wrong: Vec<Option<String>> = stream::iter(cases).map(run).buffer_unordered(at_once(kind)).collect().await;
    let wrong: Vec<String> = wrong.into_iter().flatten().collect();
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[tokio::test]
async fn an_object_in_s3_survives_a_reset_anywhere() {
    a_reset_anywhere(Kind::S3, Op::Put, &[0, 700, 3_999]).await;
}

#[tokio::test]
async fn an_upload_to_s3_in_parts_survives_a_reset_anywhere() {
    a_reset_anywhere(Kind::S3, Op::PutLarge, &[100, 1_000_000]).await;
}

#[tokio::test]
async fn an_object_in_telegram_survives_a_reset_anywhere() {
    a_reset_anywhere(Kind::Telegram, Op::PutLarge, &[0, 700, 40_000]).await;
}

/// Nobody can say whether the pin was made: whichever index is in force by then, the sweep deletes the other one alone.
#[tokio::test]
async fn of_two_indexes_the_one_in_force_outlives_the_sweep() {
    for (fault, is_pinned) in [
        (Fault::DropAnswer, true),
        (Fault::Status { status: 502, content_type: "text/html", body: String::new() }, false),
    ] {
        let scene = Scene::new(Kind::Telegram).await;
        let mut live = Op::Put.prepare(Kind::Telegram, &*scene.patient()).await;
        let nothing = Fault::Status { status: 502, content_type: "text/html", body: String::new() };
        scene.inject(fault, "pinchatmessage", 0, usize::MAX / 4);
        scene.inject_after(nothing, "getchat", "pinchatmessage", usize::MAX / 4);
        let error = put(&*scene.storage(), scene::SMALL, scene::small()).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
        scene.proxy.clear();
        let clean = scene.patient();
        let found = clean.find(&name(scene::SMALL)).await.unwrap();
        assert_eq!(found.is_some(), is_pinned);
        live.extend(found);
        assert!(!scene.litter(&live).is_empty(), "the other index lies there");
        assert_eq!(aftermath(&scene, &*clean, Kind::Telegram, &live, false).await, [] as [String; 0]);
    }
}
