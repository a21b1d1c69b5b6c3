//! A stderr that is closed, full or read by nobody takes no message, and the download goes on.

#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

mod run;

use run::Fetch;
use tests::hostile::without_stderr;
use tests::hub::{Behaviour, Hub, HubFile};

#[test]
fn what_cannot_be_said_is_not_said() {
    let files = vec![HubFile::new("config.json", 700, 1), HubFile::new("model.safetensors", 5_000_000, 2)];
    let hub = Hub::with(files.clone(), Behaviour::default());
    let fetch = Fetch::new();
    for (what, code, stdout) in without_stderr(|| fetch.command(hub.url(), &["owner/name", "-v", "--force"]))
    {
        assert_eq!(code, Some(0), "{what}");
        assert_eq!(stdout.lines().last(), Some("name"), "{what}");
        fetch.assert_holds("name", &files);
    }
    for (what, code, _) in without_stderr(|| fetch.command(hub.url(), &["owner/name", "--no-such-option"])) {
        assert_eq!(code, Some(2), "{what}");
    }
}
