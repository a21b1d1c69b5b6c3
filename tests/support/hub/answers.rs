//! What the hub answers: the API, redirects and the files of the repository.

use std::io::Write;
use std::net::TcpStream;

use serde_json::{Value, json};

use super::faults::{send_at, send_file};
use super::server::is_content;
use super::{COMMIT, Fault, HubFile, Seen, Shared, lock};

/// Answers one request; returns whether the connection may be used again.
pub(super) fn answer(
    shared: &Shared,
    request: &Seen,
    fault: &Fault,
    stream: &TcpStream,
) -> std::io::Result<bool> {
    let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
    let behaviour = &shared.behaviour;
    if !request.at_second_port
        && behaviour.authorization.is_some()
        && request.authorization != behaviour.authorization
    {
        return head(stream, 401, &[("X-Error-Code", "RepoNotFound")], Some(0));
    }
    if !request.at_second_port && behaviour.expired.is_some() && request.authorization == behaviour.expired {
        let message = "Invalid credentials in Authorization header";
        return head(stream, 401, &[("X-Error-Message", message)], Some(0));
    }
    match fault {
        Fault::Status(status, headers) => {
            let headers: Vec<(&str, &str)> =
                headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            return head(stream, *status, &headers, Some(0));
        }
        Fault::Redirect(target) => return head(stream, 302, &[("Location", target)], Some(0)),
        Fault::Page => {
            let page = "<!DOCTYPE html><title>Please log in</title>";
            head(stream, 200, &[("Content-Type", "text/html; charset=utf-8")], Some(page.len()))?;
            if request.method != "HEAD" {
                (&*stream).write_all(page.as_bytes())?;
            }
            return Ok(true);
        }
        _ => {}
    }
    if let (Fault::Slow(rate), false) = (fault, is_content(path)) {
        head(stream, 200, &[], None)?;
        return send_at(shared, stream, &[b' '; 10_000], Some(*rate)).map(|()| false);
    }
    if let Some(rest) = path.strip_prefix("/api/") {
        return answer_api(shared, request, rest, query, stream);
    }
    let name = match path.split_once("/resolve/") {
        Some((_, rest)) => rest.split_once('/').map(|(_, name)| name),
        None => path.strip_prefix("/content/"),
    };
    let files = lock(&shared.published).1.clone();
    let Some(file) = name.and_then(|name| files.iter().find(|file| file.path == decode(name))) else {
        return head(stream, 404, &[("X-Error-Code", "EntryNotFound")], Some(0));
    };
    let etag = format!("\"{}\"", file.hash());
    if behaviour.redirects && file.is_large && path.contains("/resolve/") {
        let (target, size) =
            (format!("{}/content/{}", shared.second, file.path), file.content.len().to_string());
        let headers = [
            ("Location", target.as_str()),
            ("X-Repo-Commit", COMMIT),
            ("X-Linked-Etag", &etag),
            ("X-Linked-Size", &size),
        ];
        return head(stream, 302, &headers, Some(0));
    }
    send_file(shared, request, fault, file, &etag, stream)
}

fn answer_api(
    shared: &Shared,
    request: &Seen,
    rest: &str,
    query: &str,
    stream: &TcpStream,
) -> std::io::Result<bool> {
    let parts: Vec<&str> = rest.split('/').collect();
    match parts[..] {
        [_, _, _, "revision", "missing"] => {
            head(stream, 404, &[("X-Error-Code", "RevisionNotFound")], Some(0))
        }
        [_, owner, name] | [_, owner, name, "revision", _] => {
            let is_asked_for_more = query.split('&').any(|one| one == "blobs=true");
            let siblings = if is_asked_for_more && !shared.behaviour.has_names_only {
                siblings(listed(shared))
            } else {
                lock(&shared.published).1.iter().map(|file| json!({ "rfilename": file.path })).collect()
            };
            let commit = lock(&shared.published).0.clone();
            let info = json!({ "id": format!("{owner}/{name}"), "sha": commit, "siblings": siblings });
            send_json(stream, &request.method, &info, &[])
        }
        [_, _, _, "paths-info", _] => {
            let is_asked_for = |path: &str| {
                request
                    .form
                    .split('&')
                    .any(|pair| pair.strip_prefix("paths=").is_some_and(|asked| decode(asked) == path))
            };
            let mut entries = tree(shared);
            entries.retain(|entry| entry["path"].as_str().is_some_and(is_asked_for));
            send_json(stream, &request.method, &Value::from(entries), &[])
        }
        [_, _, _, "tree", _] | [_, _, _, "tree", _, ""] if shared.behaviour.has_no_tree => {
            head(stream, 404, &[], Some(0))
        }
        [_, _, _, "tree", commit] | [_, _, _, "tree", commit, ""] => {
            let entries = match listed(shared) {
                Value::Array(entries) => entries,
                nonsense => return send_json(stream, &request.method, &nonsense, &[]),
            };
            let page = if shared.behaviour.page == 0 { entries.len().max(1) } else { shared.behaviour.page };
            let from =
                query.split('&').find_map(|one| one.strip_prefix("cursor=")?.parse().ok()).unwrap_or(0_usize);
            let to = entries.len().min(from + page);
            let link = format!(
                "</api/{}/{}/{}/tree/{commit}?cursor={to}>; rel=\"next\"",
                parts[0], parts[1], parts[2]
            );
            let headers = if to < entries.len() { vec![("Link", link.as_str())] } else { vec![] };
            send_json(stream, &request.method, &Value::from(entries[from..to].to_vec()), &headers)
        }
        _ => head(stream, 404, &[("X-Error-Code", "RepoNotFound")], Some(0)),
    }
}

/// What the tree answers.
fn listed(shared: &Shared) -> Value {
    shared.behaviour.tree.clone().unwrap_or_else(|| Value::from(tree(shared)))
}

/// The files of a tree as a revision lists them: the same in other words.
fn siblings(tree: Value) -> Value {
    let Value::Array(entries) = tree else { return tree };
    let sibling = |entry: &Value| {
        let mut sibling =
            json!({ "rfilename": entry["path"], "size": entry["size"], "blobId": entry["oid"] });
        if let Some(lfs) = entry.get("lfs") {
            sibling["lfs"] =
                json!({ "sha256": lfs["oid"], "size": lfs["size"], "pointerSize": lfs["pointerSize"] });
        }
        sibling
    };
    entries.iter().filter(|entry| entry["type"] == "file").map(sibling).collect()
}

pub(super) fn tree(shared: &Shared) -> Vec<Value> {
    let entry = |file: &HubFile| {
        let size = file.content.len();
        match (file.is_large, shared.behaviour.hides_large_files) {
            (false, _) => json!({ "type": "file", "path": file.path, "size": size, "oid": file.hash() }),
            (true, true) => json!({ "type": "file", "path": file.path, "size": size, "oid": "f".repeat(40) }),
            (true, false) => json!({
                "type": "file", "path": file.path, "size": size, "oid": "f".repeat(40),
                "lfs": { "oid": file.hash(), "size": size, "pointerSize": 134 },
            }),
        }
    };
    let directory = json!({ "type": "directory", "path": "sub", "size": 0, "oid": "e".repeat(40) });
    lock(&shared.published).1.iter().map(entry).chain([directory]).collect()
}

fn send_json(
    mut stream: &TcpStream,
    method: &str,
    value: &Value,
    headers: &[(&str, &str)],
) -> std::io::Result<bool> {
    let body = value.to_string();
    let keeps = head(stream, 200, headers, Some(body.len()))?;
    if method != "HEAD" {
        stream.write_all(body.as_bytes())?;
    }
    Ok(keeps)
}

/// Sends status and headers; without a length the connection ends with the body.
pub(super) fn head(
    mut stream: &TcpStream,
    status: u16,
    headers: &[(&str, &str)],
    length: Option<usize>,
) -> std::io::Result<bool> {
    let mut text = format!("HTTP/1.1 {status} .\r\n");
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    match length {
        Some(length) => text += &format!("Content-Length: {length}\r\n\r\n"),
        None => text += "Connection: close\r\n\r\n",
    }
    stream.write_all(text.as_bytes())?;
    Ok(length.is_some())
}

fn decode(text: &str) -> String {
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        bytes.push(u8::from_str_radix(&part[..2], 16).unwrap_or(b'?'));
        bytes.extend_from_slice(&part.as_bytes()[2..]);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
