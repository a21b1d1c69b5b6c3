//! Through a SOCKS proxy.

#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

mod run;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use run::Fetch;
use tests::hub::{Hub, HubFile};

/// A SOCKS5 proxy without a login, for addresses of four bytes or names; counts what it connects.
fn socks() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, count) = (listener.local_addr().unwrap().to_string(), Arc::new(AtomicUsize::new(0)));
    let counted = count.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            counted.fetch_add(1, Ordering::Relaxed);
            std::thread::spawn(move || drop(relay(stream)));
        }
    });
    (address, count)
}

fn relay(mut client: TcpStream) -> std::io::Result<()> {
    let mut greeting = [0; 2];
    client.read_exact(&mut greeting)?;
    client.read_exact(&mut vec![0; greeting[1].into()])?;
    client.write_all(&[5, 0])?;
    let mut request = [0; 4];
    client.read_exact(&mut request)?;
    let host = match request[3] {
        1 => {
            let mut address = [0; 4];
            client.read_exact(&mut address)?;
            Ipv4Addr::from(address).to_string()
        }
        _ => {
            let mut length = [0];
            client.read_exact(&mut length)?;
            let mut name = vec![0; length[0].into()];
            client.read_exact(&mut name)?;
            String::from_utf8(name).unwrap()
        }
    };
    let mut port = [0; 2];
    client.read_exact(&mut port)?;
    let server = TcpStream::connect((host.as_str(), u16::from_be_bytes(port)))?;
    client.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0])?;
    let (mut from, mut to) = (client.try_clone()?, server.try_clone()?);
    std::thread::spawn(move || std::io::copy(&mut from, &mut to));
    std::io::copy(&mut &server, &mut client).map(drop)
}

#[test]
fn socks_proxies_are_used() {
    let files = vec![HubFile::new("config.json", 700, 1), HubFile::new("model.safetensors", 900_000, 2)];
    let hub = Hub::start(files.clone());
    for scheme in ["socks5", "socks5h"] {
        let ((address, count), fetch) = (socks(), Fetch::new());
        let proxy = format!("{scheme}://{address}");
        fetch.run_with(&hub, &["owner/name"], &[("ALL_PROXY", &proxy)]).assert_code(0);
        fetch.assert_holds("name", &files);
        assert!(count.load(Ordering::Relaxed) > 0, "{scheme}");
    }
    let run =
        Fetch::new().run_with(&hub, &["owner/name"], &[("ALL_PROXY", "socks5://me:s3cr3t@127.0.0.1:1")]);
    run.assert_code(1);
    assert!(run.stderr.contains("cannot reach") && !run.stderr.contains("s3cr3t"), "{}", run.stderr);
}
