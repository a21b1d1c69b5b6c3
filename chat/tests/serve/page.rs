//! The page at `/`. What it does in a browser is shown by `scripts/proofs-page.py`.

use crate::client::Server;

#[test]
fn the_page_loads_nothing_from_elsewhere_and_shows_text_alone() {
    let server = Server::start_as(&["model"], &[("QLORA_API_KEY", "sesame")]);
    for (path, kind) in [("/", "text/html"), ("/page.css", "text/css"), ("/page.js", "text/javascript")] {
        let file = server.get(path);
        assert_eq!(file.status, 200, "{path} is open: the page asks for the key");
        assert!(file.head.contains(&format!("content-type: {kind}; charset=utf-8")), "{}", file.head);
        let policy = "content-security-policy: default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';";
        assert!(file.head.contains(policy), "{}", file.head);
        for forbidden in ["://", "innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("] {
            assert!(!file.body.contains(forbidden), "{path}: {forbidden}");
        }
    }
    let page = server.get("/").body;
    assert!(page.contains("href=\"page.css\"") && page.contains("src=\"page.js\""), "{page}");
}
