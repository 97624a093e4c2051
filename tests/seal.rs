//! Authenticity: what is restored, verified, handed out or copied is the backup that the history names, byte for byte, or nothing at all. A
//! storage that lies, a control plane that lies, and both together.

mod scene;
mod taking_up;

use std::{collections::BTreeMap, sync::Arc};

use axum::{body::Body, http::Request};
use bytes::Bytes;
use holdfast::{
    artifact::{Fingerprint, Sha256Digest},
    auth::jwt::{self, Claims, Verifier},
    byte_size::ByteSize,
    clock::Clock,
    config::{ChatId, Config, Secret, StorageConfig, TelegramStorageConfig, Unsealed},
    history::{self, Backup},
    http,
    ids::{BackupId, LeaseToken},
    jobs::request::{self, Depth, ExportLogs, VerifyRequest},
    keyring::Keyring,
    pipeline,
    storage::{Locator, memory::MemoryStorage, put_whole},
    tenant::{Permission, Role},
    transform::{SealKey, Seals},
};
use sqlx::Executor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::{
    files::scene as files,
    support::{
        app::{TestApp, caller, everything, export},
        seal,
        telegram_stand_in::StandIn,
    },
};
use scene::{Scene, key, manifest_key};

/// What somebody has done, and what must be said of it.
struct Attack {
    what: &'static str,
    /// In the storage: names and what lies there now. `None`: nothing.
    files: Vec<(String, Option<Vec<u8>>)>,
    /// In the control plane.
    sql: String,
    told: &'static str,
}

fn in_storage(what: &'static str, told: &'static str, files: Vec<(String, Option<Vec<u8>>)>) -> Attack {
    Attack { what, files, sql: String::new(), told }
}

fn in_control_plane(what: &'static str, told: &'static str, sql: String) -> Attack {
    Attack { what, files: Vec::new(), sql, told }
}

#[tokio::test]
async fn what_is_not_the_backup_that_was_asked_for_is_refused_before_any_tool_starts() {
    let scene = Scene::new().await;
    let newer = &scene.newer;
    let (artifact, manifest) = (key(newer), manifest_key(newer));
    let of = |backup: &Backup| (scene.stored(&key(backup)), scene.stored(&manifest_key(backup)));
    let (own, own_manifest) = of(newer);
    let mut attacks = Vec::new();
    for (other, which) in [(&scene.older, "an older backup"), (&scene.other, "another project's backup")] {
        let (bytes, its_manifest) = of(other);
        let leaked: &'static str = Box::leak(which.to_owned().into_boxed_str());
        let both =
            |manifest_bytes| vec![(artifact.clone(), Some(bytes.clone())), (manifest.clone(), Some(manifest_bytes))];
        attacks.push(in_storage(leaked, "is damaged", vec![(artifact.clone(), Some(bytes.clone()))]));
        attacks.push(in_storage(leaked, "seal.mismatch", both(its_manifest.clone())));
        attacks.push(in_storage(leaked, "seal.mismatch", vec![(manifest.clone(), Some(its_manifest.clone()))]));
        // Under its own name, as far as the manifest can be made to say so.
        let mut renamed: serde_json::Value = serde_json::from_slice(&its_manifest).unwrap();
        renamed["head"]["backup_id"] = newer.id.to_string().into();
        renamed["head"]["project_id"] = "acme".into();
        renamed["head"]["key"] = artifact.clone().into();
        renamed["head"]["created_at"] = newer.created_at.to_rfc3339().into();
        attacks.push(in_storage(leaked, "seal.broken", both(serde_json::to_vec_pretty(&renamed).unwrap())));
        attacks.push(in_storage(leaked, "seal.missing", both(seal::unsealed(renamed.clone()))));
        let strange = SealKey::from_seed([5; 32]).unwrap();
        attacks.push(in_storage(leaked, "seal.unknown_key", both(seal::sealed(renamed.clone(), &strange))));
        // The row says the same as the forged manifest: storage and control plane lie together.
        attacks.push(Attack {
            sql: format!(
                "UPDATE control_plane.backups b SET size = o.size, sha256 = o.sha256, content_sha256 = o.content_sha256,
                     manifest = jsonb_set(o.manifest, '{{head}}', (o.manifest -> 'head') || jsonb_build_object('backup_id', b.id,
                         'project_id', b.project_id, 'key', '{artifact}', 'created_at', b.manifest -> 'head' -> 'created_at'))
                 FROM control_plane.backups o WHERE b.id = '{}' AND o.id = '{}'",
                newer.id, other.id
            ),
            ..in_storage(leaked, "seal.missing", both(seal::unsealed(renamed)))
        });
        // The control plane alone: the copy is said to lie elsewhere, as a part of this backup or as another's.
        for (set, told) in [
            (format!("locator = locator || jsonb_build_object('key', '{}')", key(other)), "seal.mismatch"),
            (
                format!(
                    "locator = locator || jsonb_build_object('key', '{}'), manifest_locator = manifest_locator || \
                     jsonb_build_object('key', '{}')",
                    key(other),
                    manifest_key(other)
                ),
                "seal.mismatch",
            ),
        ] {
            let sql = format!("UPDATE control_plane.backup_copies SET {set} WHERE backup_id = '{}'", newer.id);
            attacks.push(in_control_plane(leaked, told, sql.clone()));
            let row = format!(
                "UPDATE control_plane.backups b SET size = o.size, sha256 = o.sha256, manifest = o.manifest FROM control_plane.backups o
                 WHERE b.id = '{}' AND o.id = '{}'",
                newer.id, other.id
            );
            attacks.push(in_control_plane(leaked, "seal.mismatch", format!("{sql}; {row}")));
        }
    }
    for column in [
        "project_id = 'other'",
        "created_at = created_at + interval '1 second'",
        "sha256 = repeat('0', 64)",
        "size = size + 1",
        "compression = 'zstd'",
        "manifest = jsonb_set(manifest, '{head,expires_at}', '\"2099-01-01T00:00:00Z\"')",
        "manifest = jsonb_set(manifest, '{body,database,row_count}', '0')",
        "manifest = jsonb_set(manifest, '{body,database,ownership}', '[]')",
        "manifest = jsonb_set(manifest, '{body,content,sha256}', to_jsonb(repeat('0', 64)))",
    ] {
        let sql = format!("UPDATE control_plane.backups SET {column} WHERE id = '{}'", newer.id);
        attacks.push(in_control_plane(column, "seal.mismatch", sql));
    }
    let damaged = |what, bytes: Vec<u8>| in_storage(what, "is damaged", vec![(artifact.clone(), Some(bytes))]);
    attacks.push(damaged("nothing is left of it", Vec::new()));
    attacks.push(damaged("its last byte is gone", own[..own.len() - 1].to_vec()));
    attacks.push(damaged("a byte more", [&own[..], b"x"].concat()));
    attacks.push(damaged("it is there twice", own.repeat(2)));
    attacks.push(in_storage("it is gone", "is damaged", vec![(artifact.clone(), None)]));
    attacks.push(in_storage("the manifest is gone", "manifest.missing", vec![(manifest.clone(), None)]));
    for (what, bytes) in
        [("a cut manifest", own_manifest[..own_manifest.len() / 2].to_vec()), ("an empty manifest", Vec::new())]
    {
        attacks.push(in_storage(what, "manifest.damaged", vec![(manifest.clone(), Some(bytes))]));
    }
    attacks.push(in_storage(
        "a manifest that was written anew",
        "seal.broken",
        vec![(manifest.clone(), Some([&own_manifest[..], b"\n"].concat()))],
    ));

    let before = scene.seen().await;
    for (number, attack) in attacks.iter().enumerate() {
        for (name, bytes) in &attack.files {
            scene.put(name, bytes.as_deref());
        }
        scene.test.app.pool.execute(sqlx::AssertSqlSafe(attack.sql.clone())).await.unwrap();
        let job = scene.test.restore(newer).await;
        let told =
            format!("{number}: {}, {:?} {}: {:?}", attack.what, attack.files.len(), attack.sql, job.error_message);
        assert_eq!(job.status, "failed", "{told}");
        assert!(job.error_message.as_deref().unwrap().contains(attack.told), "{told}");
        assert_eq!(scene.seen().await, before, "{told}");
        scene.put_back().await;
    }
    // And nothing of all that was wrong with the backup itself.
    let job = scene.test.restore(newer).await;
    assert_eq!(job.status, "completed", "{:?}", job.error_message);
    assert!(scene.tools_started() > before.tools_started, "the look at the tools sees them");
}

#[tokio::test]
async fn every_field_of_a_sealed_head_and_every_byte_of_the_body_counts() {
    let scene = Scene::new().await;
    let name = manifest_key(&scene.newer);
    let good = scene.stored(&name);
    let text = String::from_utf8(good.clone()).unwrap();
    let value: serde_json::Value = serde_json::from_slice(&good).unwrap();
    let copy = &history::copies(&scene.test.app.pool, &[scene.newer.id]).await.unwrap()[0];
    let (storage, at) = (scene.test.app.storages.get(&copy.storage).unwrap(), copy.locator().unwrap());
    let check = async || {
        use holdfast::jobs::authentic::{Compare, check};
        check(&scene.test.app, &scene.newer, storage.as_ref(), &at, Compare::Whole).await.map_err(|error| error.code())
    };
    assert!(check().await.is_ok());
    let mut altered = Vec::new();
    for field in value["head"].as_object().unwrap().keys() {
        let other = match &value["head"][field] {
            serde_json::Value::String(text) => format!("{text}x").into(),
            serde_json::Value::Array(parts) => [&parts[..], &parts[..1]].concat().into(),
            _ => serde_json::json!(77),
        };
        let mut head = value.clone();
        head["head"][field] = other;
        altered.push((field.clone(), serde_json::to_vec_pretty(&head).unwrap()));
        // As it stands in the file, so that the seal keeps its place and form.
        let line = format!("    \"{field}\": ");
        let at = text.find(&line).unwrap_or_else(|| panic!("{field}")) + line.len();
        let end = at + text[at..].find(['\n', ',']).unwrap();
        if text[at..end].starts_with('"') {
            let flipped = if text[at..end].ends_with("0\"") { '1' } else { '0' };
            let inner = format!("{}{flipped}\"", &text[at..end - 2]);
            altered.push((field.clone(), format!("{}{inner}{}", &text[..at], &text[end..]).into_bytes()));
        }
    }
    assert!(altered.len() > 16, "{}", altered.len());
    let armour = text.find("BEGIN AGE").unwrap();
    for at in (armour..text.len() - pipeline::SEAL_BYTES).step_by(53) {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        altered.push((format!("byte {at}"), bytes));
    }
    for (what, bytes) in altered {
        scene.put(&name, Some(&bytes));
        let code = check().await.map(|_| ()).unwrap_err();
        assert!(["seal.broken", "manifest.damaged", "manifest.newer"].contains(&code), "{what}: {code}");
    }
    // Sealed by a key that is accepted, it still has to be this backup's.
    let mut other_project = value;
    other_project["head"]["project_id"] = "other".into();
    scene.put(&name, Some(&seal::sealed(other_project, scene.test.app.keys.seals.key().unwrap())));
    assert_eq!(check().await.map(|_| ()).unwrap_err(), "seal.mismatch");
}

#[tokio::test]
async fn an_artifact_that_is_cut_anywhere_or_put_together_otherwise_is_never_handed_on() {
    let directory = tempfile::tempdir().unwrap();
    let storage = MemoryStorage::new();
    let parts: Vec<Vec<u8>> =
        (0..4_u8).map(|n| (0..700_u16).map(|at| (at as u8).wrapping_mul(31) ^ n).collect()).collect();
    let whole = parts.concat();
    let name = "backups/acme/a-000000000000.sql".parse().unwrap();
    let at = put_whole(&storage, &name, LeaseToken::generate(), Bytes::from(whole.clone())).await.unwrap();
    let expected = Fingerprint::of(&whole);
    let cancel = CancellationToken::new();
    let fetched = async |bytes: Vec<u8>| {
        storage.tamper(&name, Bytes::from(bytes));
        pipeline::spool(&storage, &at, expected, directory.path(), &|_| {}, &cancel).await.map_err(|error| error.code())
    };
    assert!(fetched(whole.clone()).await.is_ok());
    for length in 0..whole.len() {
        assert_eq!(fetched(whole[..length].to_vec()).await.map(|_| ()), Err("artifact.damaged"), "cut at {length}");
    }
    let put_together = |order: &[usize]| order.iter().flat_map(|part| parts[*part].clone()).collect::<Vec<u8>>();
    for order in [
        &[1, 0, 2, 3][..],
        &[0, 2, 1, 3],
        &[0, 1, 3, 2],
        &[3, 2, 1, 0],
        &[0, 0, 2, 3],
        &[0, 1, 2, 2],
        &[0, 2, 3],
        &[0, 1, 2, 3, 3],
    ] {
        assert_eq!(fetched(put_together(order)).await.map(|_| ()), Err("artifact.damaged"), "{order:?}");
    }
    for at in (0..whole.len()).step_by(97) {
        let mut flipped = whole.clone();
        flipped[at] ^= 0x80;
        assert_eq!(fetched(flipped).await.map(|_| ()), Err("artifact.damaged"), "byte {at}");
    }
}

#[tokio::test]
async fn the_documents_of_a_chat_count_in_their_order_and_each_of_them_once() {
    let bot_api = StandIn::start().await;
    bot_api.control().set_pacing(false);
    let channel = TelegramStorageConfig {
        base_url: bot_api.base_url().to_string(),
        part_size: Some(ByteSize::kib(64)),
        messages_per_minute: 0,
        ..TelegramStorageConfig::new(Secret::new(bot_api.token()), ChatId::Number(bot_api.chat_id()))
    };
    let test = TestApp::with(|config| {
        config.storages = [("channel".to_owned(), StorageConfig::Telegram(Box::new(channel)))].into();
    })
    .await;
    let mut tenants = test.tenants().await;
    tenants
        .execute(
            "CREATE SCHEMA tenant_acme;
             CREATE TABLE tenant_acme.notes AS SELECT id, (SELECT string_agg(encode(sha256((id || '/' || n)::bytea), 'hex'), '')
                 FROM generate_series(1, 20) AS n) AS text FROM generate_series(1, 400) AS id",
        )
        .await
        .unwrap();
    test.add_schema_project("acme", "tenant_acme").await;
    let older = test.backup(export("acme")).await;
    let backup = test.backup(export("acme")).await;
    let locator =
        async |backup: &Backup| history::copies(&test.app.pool, &[backup.id]).await.unwrap()[0].locator().unwrap();
    let (good, earlier) = (locator(&backup).await, locator(&older).await);
    let Locator::Telegram { key, chat_id, messages } = good.clone() else { panic!("in a chat") };
    assert!(messages.len() > 3, "{}", messages.len());
    let Locator::Telegram { messages: replayed, .. } = earlier.clone() else { panic!("in a chat") };
    let order = |order: &[usize]| order.iter().map(|at| messages[*at].clone()).collect::<Vec<_>>();
    let rest: Vec<usize> = (2..messages.len()).collect();
    for (what, messages) in [
        ("two of them changed places", order(&[&[1, 0], &rest[..]].concat())),
        ("one twice", order(&[&[0, 0], &rest[..]].concat())),
        ("one more at the end", order(&[&[0, 1], &rest[..], &[0]].concat())),
        ("one missing", order(&[&[0], &rest[..]].concat())),
        ("the last missing", messages[..messages.len() - 1].to_vec()),
        ("those of an older backup", replayed),
    ] {
        let lying = Locator::Telegram { key: key.clone(), chat_id, messages };
        set_locator(&test, &backup, &lying).await;
        let job = test.restore(&backup).await;
        assert_eq!(job.status, "failed", "{what}");
        assert!(job.error_message.as_deref().unwrap().contains("is damaged"), "{what}: {:?}", job.error_message);
    }
    set_locator(&test, &backup, &earlier).await;
    let job = test.restore(&backup).await;
    assert!(job.error_message.as_deref().unwrap().contains("seal.mismatch"), "{:?}", job.error_message);
    let restores: i64 =
        sqlx::query_scalar("SELECT count(*) FROM control_plane.restores").fetch_one(&test.app.pool).await.unwrap();
    assert_eq!(restores, 0, "no restore was begun");
    set_locator(&test, &backup, &good).await;
    let job = test.restore(&backup).await;
    assert_eq!(job.status, "completed", "{:?}", job.error_message);
}

async fn set_locator(test: &TestApp, backup: &Backup, locator: &Locator) {
    sqlx::query("UPDATE control_plane.backup_copies SET locator = $2, status = 'good' WHERE backup_id = $1")
        .bind(backup.id)
        .bind(serde_json::to_value(locator).unwrap())
        .execute(&test.app.pool)
        .await
        .unwrap();
    sqlx::query("UPDATE control_plane.backups SET status = 'completed', message = NULL WHERE id = $1")
        .bind(backup.id)
        .execute(&test.app.pool)
        .await
        .unwrap();
}

#[tokio::test]
async fn files_are_not_restored_and_logs_not_handed_out_from_what_is_not_theirs() {
    let scene = files::Scene::new().await;
    files::awkward(&scene.live());
    let test = &scene.test;
    let older = scene.backup().await;
    files::write(&scene.live().join("later"), "later");
    let newer = scene.backup().await;
    let before = files::look(&scene.live());
    let root = test.directory.path().join("storage");
    let replay = |from: &Backup, to: &Backup| {
        for (from, to) in [(key(from), key(to)), (manifest_key(from), manifest_key(to))] {
            let bytes = std::fs::read(root.join(from)).unwrap();
            std::fs::remove_file(root.join(&to)).unwrap();
            std::fs::write(root.join(&to), bytes).unwrap();
        }
    };
    replay(&older, &newer);
    let job = test.restore(&newer).await;
    assert_eq!(job.status, "failed");
    assert!(job.error_message.as_deref().unwrap().contains("seal.mismatch"), "{:?}", job.error_message);
    files::assert_same(&before, &files::look(&scene.live()));
    assert_eq!(scene.beside(), Vec::<String>::new());

    let logs = |project: &str| ExportLogs { project_id: project.to_owned(), ..ExportLogs::default() };
    test.add_schema_project("globex", "tenant_globex").await;
    let mut taken: BTreeMap<&str, Backup> = BTreeMap::new();
    for project in ["acme", "globex"] {
        let job = request::export(&test.app, &caller(), &logs(project), None).await.unwrap();
        let job = test.run(job.job_id()).await;
        let id: BackupId = serde_json::from_value(job.result.unwrap()["backup_id"].clone()).unwrap();
        taken.insert(project, history::get(&test.app.pool, &everything(), id).await.unwrap());
    }
    let (acme, globex) = (&taken["acme"], &taken["globex"]);
    let secret = Secret::new("an HS256 secret that is long enough");
    let verifier = Verifier::new(&secret, &test.app.config.auth, Clock::System).unwrap();
    let router = http::router(test.app.clone(), verifier);
    let claims = Claims {
        subject: "a member".to_owned(),
        permissions: vec![Permission::Read],
        project_ids: vec!["acme".parse().unwrap()],
        organization_id: None,
        role: Role::Member,
    };
    let lifetime = std::time::Duration::from_secs(600);
    let token = jwt::issue(&secret, &test.app.config.auth, &claims, Clock::System.now(), lifetime).unwrap();
    let download = async || {
        let request = Request::get(format!("/api/backup/{}/download", acme.id))
            .header("authorization", format!("Bearer {token}"));
        let answer = router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        let status = answer.status().as_u16();
        let body = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
        (status, String::from_utf8_lossy(&body).into_owned())
    };
    assert_eq!(download().await.0, 200);
    // A control plane that lies: this project's backup is said to lie where the other's does.
    let own = history::copies(&test.app.pool, &[acme.id]).await.unwrap()[0].locator().unwrap();
    let other = history::copies(&test.app.pool, &[globex.id]).await.unwrap()[0].locator().unwrap();
    set_locator(test, acme, &other).await;
    sqlx::query("UPDATE control_plane.backups b SET size = o.size, sha256 = o.sha256, manifest = o.manifest FROM control_plane.backups o WHERE b.id = $1 AND o.id = $2")
        .bind(acme.id).bind(globex.id).execute(&test.app.pool).await.unwrap();
    let (status, body) = download().await;
    assert!(status == 502 && body.contains("seal.mismatch"), "{status} {body}");
    // And a storage.
    sqlx::query("UPDATE control_plane.backups SET size = $2, sha256 = $3, manifest = $4 WHERE id = $1")
        .bind(acme.id)
        .bind(acme.size)
        .bind(&acme.sha256)
        .bind(&acme.manifest)
        .execute(&test.app.pool)
        .await
        .unwrap();
    set_locator(test, acme, &own).await;
    assert_eq!(download().await.0, 200);
    let manifest = std::fs::read(root.join(manifest_key(acme))).unwrap();
    std::fs::remove_file(root.join(manifest_key(acme))).unwrap();
    let (status, body) = download().await;
    assert!(status == 502 && body.contains("manifest.missing"), "{status} {body}");
    std::fs::write(root.join(manifest_key(acme)), seal::unsealed(serde_json::from_slice(&manifest).unwrap())).unwrap();
    let (status, body) = download().await;
    assert!(status == 409 && body.contains("seal.missing") && body.contains("seal.unsealed"), "{status} {body}");
}

#[tokio::test]
async fn what_was_made_before_there_were_seals_is_restored_as_long_as_that_is_wanted() {
    let mut scene = Scene::new().await;
    let name = manifest_key(&scene.newer);
    let mut manifest: serde_json::Value = serde_json::from_slice(&scene.stored(&name)).unwrap();
    let unsealed = seal::unsealed(manifest.clone());
    let digest = Sha256Digest::of(&unsealed);
    scene.put(&name, Some(&unsealed));
    let later = scene.newer.created_at + chrono::Duration::hours(1);
    let since = |scene: &Scene, at| {
        let mut keys = (*scene.test.app.keys).clone();
        keys.seals = Seals::new(None, keys.seals.accepted().collect(), at);
        Arc::new(keys)
    };
    let (before, after) = (since(&scene, Some(scene.newer.created_at)), since(&scene, Some(later)));
    for (what, keys, rule, is_restored) in [
        ("made after the key", &before, Unsealed::Older, false),
        ("nobody knows when the key was made", &since(&scene, None), Unsealed::Older, false),
        ("made before the key", &after, Unsealed::Never, false),
        ("made before the key", &after, Unsealed::Older, true),
        ("made after the key", &before, Unsealed::Always, true),
        ("named by its digest", &before, Unsealed::Never, true),
    ] {
        scene.test.app.keys = Arc::clone(keys);
        let mut config = (*scene.test.app.config).clone();
        config.seal.unsealed = rule;
        if what == "named by its digest" {
            config.seal.unsealed_manifests = vec![digest];
        }
        scene.test.app.config = Arc::new(config);
        let job = scene.test.restore(&scene.newer).await;
        assert_eq!(job.status == "completed", is_restored, "{what}, {rule}: {:?}", job.error_message);
        if !is_restored {
            let message = job.error_message.unwrap();
            assert!(
                message.contains("seal.missing") && message.contains(&digest.to_string()),
                "{what}, {rule}: {message}"
            );
            let status: String =
                sqlx::query_scalar("SELECT status FROM control_plane.backup_copies WHERE backup_id = $1")
                    .bind(scene.newer.id)
                    .fetch_one(&scene.test.app.pool)
                    .await
                    .unwrap();
            assert_eq!(status, "good", "nothing is known to be wrong with it");
        }
    }
    // A record and a manifest that agree on an earlier time, which somebody has written into both, are believed as far as that goes: but in an
    // installation that has sealed from the beginning nothing is older, and what is named by its digest is that and nothing else.
    manifest["head"]["created_at"] = "2001-01-01T00:00:00Z".into();
    scene.put(&name, Some(&seal::unsealed(manifest)));
    sqlx::query(
        "UPDATE control_plane.backups SET created_at = '2001-01-01T00:00:00Z', \
             manifest = jsonb_set(manifest, '{head,created_at}', '\"2001-01-01T00:00:00Z\"') WHERE id = $1",
    )
    .bind(scene.newer.id)
    .execute(&scene.test.app.pool)
    .await
    .unwrap();
    let mut config = (*scene.test.app.config).clone();
    (config.seal.unsealed, config.seal.unsealed_manifests) = (Unsealed::Older, vec![digest]);
    scene.test.app.config = Arc::new(config);
    let of_its_own = tempfile::tempdir().unwrap();
    let fresh = Config { data_dir: of_its_own.path().join("data"), ..Config::default() };
    let fresh = Arc::new(Keyring::open(&fresh, &Clock::System).unwrap());
    for (keys, is_restored) in [(&before, true), (&since(&scene, fresh.seals.since()), false)] {
        scene.test.app.keys = Arc::clone(keys);
        let job = scene.test.restore(&scene.newer).await;
        assert_eq!(job.status == "completed", is_restored, "forged: {:?}", job.error_message);
    }
    scene.put_back().await;
    // Also then the storage alone makes nothing up.
    scene.test.app.keys = after;
    let (bytes, its) = (scene.stored(&key(&scene.other)), scene.stored(&manifest_key(&scene.other)));
    scene.put(&key(&scene.newer), Some(&bytes));
    scene.put(&name, Some(&seal::unsealed(serde_json::from_slice(&its).unwrap())));
    let job = scene.test.restore(&scene.newer).await;
    assert!(job.error_message.unwrap().contains("seal.mismatch"));
}

#[tokio::test]
async fn a_verification_names_a_forged_copy_and_passes_no_verdict_on_one_that_it_cannot_prove() {
    let scene = Scene::new().await;
    let verify = async |depth| {
        let request = VerifyRequest { backup_id: scene.newer.backup_id(), depth };
        let job = request::verify(&scene.test.app, &caller(), &request, None).await.unwrap();
        scene.test.run(job.job_id()).await
    };
    for depth in [Depth::Head, Depth::Read] {
        assert_eq!(verify(depth).await.result.unwrap()["outcome"], "verified", "{depth}");
        scene.put(&manifest_key(&scene.newer), Some(&scene.stored(&manifest_key(&scene.older))));
        let result = verify(depth).await.result.unwrap();
        assert_eq!(result["outcome"], "damaged", "{depth}");
        assert!(result["copies"][0]["message"].as_str().unwrap().contains("seal.mismatch"), "{depth}: {result}");
        scene.put_back().await;
    }
    let manifest = serde_json::from_slice(&scene.stored(&manifest_key(&scene.newer))).unwrap();
    scene.put(&manifest_key(&scene.newer), Some(&seal::sealed(manifest, &SealKey::from_seed([6; 32]).unwrap())));
    for depth in [Depth::Head, Depth::Read] {
        let job = verify(depth).await;
        assert_eq!(job.status, "failed", "{depth}");
        assert!(job.error_message.as_deref().unwrap().contains("seal.unknown_key"), "{:?}", job.error_message);
    }
    let backup = history::get(&scene.test.app.pool, &everything(), scene.newer.backup_id()).await.unwrap();
    assert_eq!(backup.status, "completed");
}
