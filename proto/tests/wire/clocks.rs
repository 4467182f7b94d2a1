//! The clocks of a connection: messages that are begun and do not end, replies that nobody takes.

use std::time::{Duration, Instant};

use futures::StreamExt;
use rustix::io::ioctl_fionread;
use rustix::net::SendFlags;
use task_proto::limits::Limits;
use task_proto::wire::{self, Decoder, FdStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::interval;

use crate::json::{Json, METHODS};
use crate::local;
use crate::support::*;

const LONG: Duration = Duration::from_hours(24);

fn quick() -> Limits {
    Limits { frame_time: Duration::from_millis(100), ..Limits::default() }
}

fn wait(name: u32) -> String {
    format!("{{\"jsonrpc\":\"2.0\",\"id\":{name},\"method\":\"wait\",\"params\":{{\"name\":{name}}}}}\n")
}

/// Waits until the server reads no more, which a write of nothing finds out.
async fn refused(socket: &UnixStream) {
    let tried = async {
        while rustix::net::send(socket, &[], SendFlags::NOSIGNAL).is_ok() {
            tokio::task::yield_now().await;
        }
    };
    soon(tried).await;
}

#[test]
fn a_frame_that_does_not_end_is_cut_off_and_all_that_came_whole_is_answered() {
    local(async {
        // Nothing of it but its length, and all but its last byte.
        for missing in [1, 3, usize::MAX] {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let (handler, mut events) = Handler::new();
            let end = serve(theirs, &quick(), handler.clone().serve());
            let mut raw = Raw::new(ours);
            raw.send(request(1, LONG, ProbeRequest::Wait { name: 1 })).await;
            assert_eq!(soon(events.recv()).await, Some(Event::Started(1)));
            let frame = framed(&request(2, LONG, ProbeRequest::Wait { name: 2 }));
            let cut = frame.len().saturating_sub(missing).max(4);
            raw.0.get_mut().write_all(&frame[..cut]).await.unwrap();
            refused(raw.0.get_ref()).await;
            handler.release.add_permits(2);
            assert_eq!(raw.reply().await.unwrap().request_id, 1);
            let notice = raw.reply().await.unwrap();
            let told = notice.message.unwrap_err().detail;
            assert!(notice.request_id == u64::MAX && told.contains("did not end within 0.1 s"), "{told}");
            assert!(matches!(soon(end).await.unwrap(), End::Failed));
        }
    });
}

#[test]
fn a_line_that_does_not_end_is_cut_off_and_all_that_came_whole_is_answered() {
    local(async {
        for spoke_one in [false, true] {
            let mut json = Json::new(&quick());
            let first = if spoke_one {
                "{\"id\":1,\"method\":\"wait\",\"params\":{\"name\":1}}\n".into()
            } else {
                wait(1)
            };
            json.send(&first).await;
            assert_eq!(json.event().await, Event::Started(1));
            json.send(wait(2).trim_end()).await;
            refused(json.stream.get_ref()).await;
            json.handler.release.add_permits(2);
            assert_eq!(json.value().await["result"], 1);
            if !spoke_one {
                let notice = json.value().await;
                assert_eq!(notice["error"]["code"], -32004, "{notice}");
            }
            assert_eq!(json.line().await, "");
            assert!(matches!(soon(json.end).await.unwrap(), End::Failed));
        }
    });
}

#[test]
fn one_byte_at_a_time_is_no_way_to_hold_a_place() {
    local(async {
        let mut json = Json::new(&quick());
        let mut ticks = interval(Duration::from_millis(5));
        let begun = Instant::now();
        json.send("{").await;
        while json.stream.get_mut().write(b" ").await.is_ok() {
            ticks.tick().await;
            assert!(begun.elapsed() < Duration::from_secs(5), "it goes on reading");
        }
    });
}

#[test]
fn white_space_between_messages_is_no_message_and_a_half_line_is() {
    local(async {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let mut transport =
            wire::json_server(FdStream::new(theirs, 0).unwrap(), &quick(), METHODS, &Decoder::default());
        for (text, quiet) in [("\n", true), (" \t\r\n \n", true), ("{", false)] {
            ours.write_all(text.as_bytes()).await.unwrap();
            let taken = async {
                while futures::poll!(transport.next()).is_pending() && ioctl_fionread(&transport).unwrap() > 0
                {
                    tokio::task::yield_now().await;
                }
            };
            soon(taken).await;
            assert_eq!(transport.is_quiet(), quiet, "{text:?}");
        }
    });
}

#[test]
fn a_client_that_we_keep_waiting_is_not_too_slow() {
    local(async {
        // One call at a time, and so little may be held that reading stops at the second, in the middle of a line.
        let mut json = Json::new(&Limits { in_flight: 1, held: 1, ..quick() });
        json.send(&(wait(1) + &wait(2) + &wait(3) + &wait(4)[..20])).await;
        assert_eq!(json.event().await, Event::Started(1));
        // It is we who do not read for three times as long as a line may take.
        let mut ticks = interval(Duration::from_millis(300));
        ticks.tick().await;
        ticks.tick().await;
        json.handler.release.add_permits(4);
        json.send(&wait(4)[20..]).await;
        for name in 1..=4 {
            assert_eq!(json.value().await["result"], name);
        }
    });
}

#[test]
fn a_large_message_has_more_time() {
    local(async {
        let mut json = Json::new(&quick());
        let long = " ".repeat(128 * 1024);
        json.send(&wait(1)[..1]).await;
        json.send(&long).await;
        let mut ticks = interval(Duration::from_millis(300));
        ticks.tick().await;
        ticks.tick().await;
        json.handler.release.add_permits(1);
        json.send(&wait(1)[1..]).await;
        assert_eq!(json.value().await["result"], 1);
    });
}

#[test]
fn a_client_that_takes_no_byte_of_its_replies_is_closed_and_one_that_takes_some_is_not() {
    local(async {
        let limits = Limits { unread: Duration::from_millis(200), ..Limits::default() };
        let ask = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"grow\",\"params\":{\"bytes\":900000}}\n";
        let mut json = Json::new(&limits);
        json.send(ask).await;
        assert!(matches!(soon(&mut json.end).await.unwrap(), End::Failed));

        let (ours, theirs) = UnixStream::pair().unwrap();
        let end = serve(theirs, &limits, Handler::new().0.serve());
        let mut raw = Raw::new(ours);
        raw.send(request(1, LONG, ProbeRequest::Grow { bytes: 900_000 })).await;
        assert!(matches!(soon(end).await.unwrap(), End::Failed));

        // Slow as it is, it takes longer than that for all.
        let mut json = Json::new(&limits);
        json.send(ask).await;
        json.finish().await;
        let mut ticks = interval(Duration::from_millis(30));
        let (mut taken, mut some) = (0, vec![0; 64 * 1024]);
        loop {
            ticks.tick().await;
            match soon(json.stream.get_mut().read(&mut some)).await.unwrap() {
                0 => break,
                count => taken += count,
            }
        }
        assert!(taken > 900_000, "{taken}");
        assert!(matches!(soon(json.end).await.unwrap(), End::Served));
    });
}
