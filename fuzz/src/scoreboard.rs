//! The scoreboard, as a worker may leave it for its host.

use std::cell::LazyCell;

use task_proto::limits::SLOTS;
use task_proto::scoreboard::Board;

/// Bytes of a board that are ever written: its head, the connections' rows, the first slots.
const WRITTEN: usize = 32 * 1024;

/// Stretches of a board, between bytes of `c1`: each begins with its place, in words of 8 bytes (2 bytes,
/// little-endian). Whatever is there can be read, and shows no more than there is room for.
pub fn scoreboard(data: &[u8]) -> u64 {
    thread_local! {
        static BOARD: LazyCell<Board> = LazyCell::new(|| Board::create().unwrap());
    }
    BOARD.with(|board| {
        let mut bytes = vec![0; WRITTEN];
        for part in data.split(|byte| *byte == 0xc1) {
            let Some((place, stretch)) = part.split_first_chunk() else { continue };
            let start = usize::from(u16::from_le_bytes(*place)) * 8 % WRITTEN;
            let end = (start + stretch.len()).min(WRITTEN);
            bytes[start..end].copy_from_slice(&stretch[..end - start]);
        }
        assert_eq!(rustix::io::pwrite(board.fd(), &bytes, 0).unwrap(), WRITTEN);
        let shown = board.read().unwrap();
        assert!(shown.calls.len() <= SLOTS, "{} calls", shown.calls.len());
        for call in &shown.calls {
            // What a screen or a log shows of it.
            let _ = format!("{call:?}");
        }
        let _ = shown.latencies.quantile(0.5);
        1
    })
}
