//! `ItemList`: the items of a `Scan`, decoded one at a time.

use bytes::{Buf, BufMut, Bytes};
use prost::{
    DecodeError, Message,
    encoding::{self, DecodeContext, WireType},
};

use super::{
    ItemMessage,
    item::{ONLY_READ, in_field},
};
use crate::{
    domain::{Fault, FaultKind},
    session::Inbound,
};

/// `tidemill.v1.ItemList`, the items yet to be read. A server never sends one: encoded, it is empty.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ItemListMessage {
    /// Each a slice of the message that arrived.
    items: Vec<Bytes>,
}

impl Message for ItemListMessage {
    fn encode_raw(&self, _buf: &mut impl BufMut) {
        debug_assert!(false, "{ONLY_READ}");
    }

    fn encoded_len(&self) -> usize {
        debug_assert!(false, "{ONLY_READ}");
        0
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        if tag != 1 {
            return encoding::skip_field(wire_type, tag, buf, context);
        }
        let mut item = Bytes::new();
        encoding::bytes::merge(wire_type, &mut item, buf, context).map_err(in_field("ItemList", "items"))?;
        self.items.push(item);
        Ok(())
    }

    fn clear(&mut self) {
        self.items.clear();
    }
}

/// The items, decoded as the session asks for them. One that is broken is the last.
pub struct ScanItems {
    items: std::iter::Enumerate<std::vec::IntoIter<Bytes>>,
}

impl ScanItems {
    /// # Errors
    /// [`FaultKind::TooLarge`] for more than `items_max` (`message.max_items`).
    pub fn new(list: ItemListMessage, items_max: usize) -> Result<Self, Fault> {
        let count = list.items.len();
        if count > items_max {
            let message = format!(
                "the request holds {count} items, more than the {items_max} that message.max_items allows; send several requests, or a Feed"
            );
            return Err(Fault::new(FaultKind::TooLarge, message).with_limit("message.max_items", items_max as u64));
        }
        Ok(Self { items: list.items.into_iter().enumerate() })
    }
}

impl Iterator for ScanItems {
    type Item = Result<Inbound, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        let (index, item) = self.items.next()?;
        let item = ItemMessage::decode(item).map_err(|error| Fault::invalid(format!("items[{index}]"), error.to_string()));
        Some(item.map(|item| Inbound::Item(item.into_request())))
    }
}
