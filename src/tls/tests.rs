//! Files on a disk: what is served from them, and what happens when they change.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rcgen::{CertificateParams, KeyPair};
use tempfile::TempDir;

use super::*;
use crate::settings::{CertificateFiles, ClientAuth, TlsVersion};

/// A certificate and its key as PEM.
fn pem(names: &[&str], days: i64) -> (String, String) {
    let key = KeyPair::generate().expect("a key");
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("names");
    params.not_after =
        rcgen::date_time_ymd(2026, 1, 1) + Duration::from_hours(24) * u32::try_from(days).expect("days");
    (params.self_signed(&key).expect("a certificate").pem(), key.serialize_pem())
}

pub(super) fn certificate(names: &[&str]) -> Arc<Certificate> {
    let (cert, key) = pem(names, 3650);
    Arc::new(Certificate::from_pem(cert.as_bytes(), key.as_bytes()).expect("a certificate"))
}

fn write(folder: &Path, names: &[&str]) -> CertificateFiles {
    write_pem(folder, &pem(names, 3650))
}

fn write_pem(folder: &Path, (cert, key): &(String, String)) -> CertificateFiles {
    let files = CertificateFiles { cert: folder.join("cert.pem"), key: folder.join("key.pem") };
    // As a careful program does it: by renaming.
    for (file, text) in [(&files.key, key), (&files.cert, cert)] {
        let next = file.with_extension("next");
        fs::write(&next, text).expect("written");
        fs::set_permissions(&next, fs::Permissions::from_mode(0o600)).expect("permissions");
        fs::rename(&next, file).expect("renamed");
    }
    files
}

fn settings(certificates: Vec<CertificateFiles>) -> TlsSettings {
    TlsSettings {
        certificates,
        min_version: TlsVersion::Tls12,
        client_ca: None,
        client_auth: ClientAuth::Off,
        acme: None,
    }
}

fn first_name(tls: &Tls) -> String {
    tls.expiries()[0].0.clone()
}

fn eventually(what: &str, mut ask: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !ask() {
        assert!(Instant::now() < until, "gave up waiting until {what}");
        thread::park_timeout(Duration::from_millis(5));
    }
}

#[test]
fn every_bad_file_is_named_at_once() {
    let home = TempDir::new().expect("a folder");
    let (good, other) = (home.path().join("good"), home.path().join("other"));
    fs::create_dir(&good).expect("a folder");
    fs::create_dir(&other).expect("a folder");
    let good = write(&good, &["a.example.com"]);
    let other = write(&other, &["b.example.com"]);
    let text = home.path().join("text.pem");
    fs::write(&text, "hello").expect("written");
    let with = |cert: &Path, key: &Path| CertificateFiles { cert: cert.to_owned(), key: key.to_owned() };
    let missing = home.path().join("missing.pem");
    let settings = settings(vec![
        with(&missing, &good.key),
        with(&text, &good.key),
        with(&good.cert, &text),
        with(&good.cert, &other.key),
        with(&good.key, &good.key),
        good.clone(),
    ]);
    let error = Tls::new(&settings, Arc::default()).expect_err("it refuses");
    let TlsError::Files(errors) = &error else { panic!("{error}") };
    let shown: Vec<_> = errors.iter().map(|error| (error.file.clone(), error.fault.clone())).collect();
    assert_eq!(shown.len(), 5, "{shown:?}");
    assert!(matches!(&shown[0], (file, Fault::Unreadable(_)) if *file == missing), "{shown:?}");
    assert_eq!(shown[1], (text.clone(), Fault::NoCertificate));
    assert_eq!(shown[2], (text, Fault::NoKey));
    assert_eq!(shown[3], (other.key, Fault::Mismatch { cert: good.cert }));
    assert_eq!(shown[4], (good.key, Fault::NoCertificate));
    assert!(!error.to_string().contains("BEGIN"), "no key material in {error}");
}

#[test]
fn check_names_what_is_odd_about_good_files() {
    let home = TempDir::new().expect("a folder");
    let files = write(home.path(), &["a.example.com"]);
    let settings = settings(vec![files.clone()]);
    let end = Certificate::load(&files).expect("it loads").not_after();
    assert_eq!(check(&settings, end - 30 * 86_400), []);
    let said =
        |now: i64| check(&settings, now).into_iter().map(|f| (f.is_error, f.message)).collect::<Vec<_>>();
    assert_eq!(said(end), [(false, "the certificate has expired".to_owned())]);
    assert_eq!(said(end - 3 * 86_400), [(false, "the certificate expires in 3 days".to_owned())]);
    let now = end - 30 * 86_400;
    for (mode, is_error, word) in
        [(0o640, false, "readable"), (0o604, false, "readable"), (0o620, true, "writable")]
    {
        fs::set_permissions(&files.key, fs::Permissions::from_mode(mode)).expect("permissions");
        let found = check(&settings, now);
        assert_eq!(found.len(), 1, "{mode:o}");
        assert_eq!(found[0].is_error, is_error);
        assert_eq!(found[0].file.as_ref(), Some(&files.key));
        assert!(found[0].message.contains(word), "{found:?}");
    }
    fs::set_permissions(&files.key, fs::Permissions::from_mode(0o600)).expect("permissions");
    let no_ca = TlsSettings { client_auth: ClientAuth::Required, ..settings };
    assert!(check(&no_ca, now).iter().all(|finding| finding.is_error));
    assert_eq!(check(&no_ca, now).len(), 1);
}

#[test]
fn a_replaced_file_is_served_and_a_bad_one_is_not() {
    let home = TempDir::new().expect("a folder");
    let files = write(home.path(), &["one.example.com"]);
    let metrics = Arc::new(Metrics::default());
    let tls = Tls::new(&settings(vec![files.clone()]), Arc::clone(&metrics)).expect("it loads");
    let _watch = Watch::start(Arc::clone(&tls)).expect("a thread");
    assert_eq!(first_name(&tls), "one.example.com");

    let failed = || metrics.certificate_reloads.of(ReloadResult::Failed).value();
    let next = pem(&["two.example.com"], 3650);
    // The certificate without its key: halfway through a renewal.
    fs::write(&files.cert, &next.0).expect("written");
    eventually("it was noticed", || failed() > 0);
    assert_eq!(first_name(&tls), "one.example.com");
    write_pem(home.path(), &next);
    eventually("the new one is served", || first_name(&tls) == "two.example.com");
    assert_eq!(metrics.certificate_reloads.of(ReloadResult::Ok).value(), 1);
    let before = failed();
    // What has not changed is not read as news.
    assert!(!tls.reload().expect("good files"));
    fs::remove_file(&files.cert).expect("removed");
    eventually("it was noticed", || failed() > before);
    assert_eq!(first_name(&tls), "two.example.com");
}

#[test]
fn a_swapped_link_to_a_folder_is_noticed() {
    // As Kubernetes mounts secrets: cert.pem → ..data/cert.pem, ..data → a folder by date.
    let home = TempDir::new().expect("a folder");
    let (old, new) = (home.path().join("..2026_01"), home.path().join("..2026_02"));
    for (folder, name) in [(&old, "old.example.com"), (&new, "new.example.com")] {
        fs::create_dir(folder).expect("a folder");
        write(folder, &[name]);
    }
    let data = home.path().join("..data");
    symlink(&old, &data).expect("a link");
    for file in ["cert.pem", "key.pem"] {
        symlink(Path::new("..data").join(file), home.path().join(file)).expect("a link");
    }
    let files = CertificateFiles { cert: home.path().join("cert.pem"), key: home.path().join("key.pem") };
    let tls = Tls::new(&settings(vec![files]), Arc::default()).expect("it loads");
    let _watch = Watch::start(Arc::clone(&tls)).expect("a thread");
    assert_eq!(first_name(&tls), "old.example.com");
    let swap = home.path().join("..data_tmp");
    symlink(&new, &swap).expect("a link");
    fs::rename(&swap, &data).expect("swapped");
    eventually("the new one is served", || first_name(&tls) == "new.example.com");
}

#[test]
fn sessions_begin_anew_when_the_rules_change_and_only_then() {
    let home = TempDir::new().expect("a folder");
    let files = write(home.path(), &["one.example.com"]);
    let before = settings(vec![files]);
    let tls = Tls::new(&before, Arc::default()).expect("it loads");
    let first = tls.config();
    write(home.path(), &["two.example.com"]);
    assert!(tls.reload().expect("good files"));
    assert!(Arc::ptr_eq(&first, &tls.config()), "a renewal keeps the ticket key");
    let stricter = TlsSettings { min_version: TlsVersion::Tls13, ..before.clone() };
    tls.replace(&stricter).expect("it loads");
    assert!(!Arc::ptr_eq(&first, &tls.config()));
    let second = tls.config();
    let bad = TlsSettings { client_auth: ClientAuth::Required, ..before };
    tls.replace(&bad).expect_err("there is no authority");
    assert!(Arc::ptr_eq(&second, &tls.config()), "a bad one changes nothing");
}
