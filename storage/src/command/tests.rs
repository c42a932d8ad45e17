#![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use super::*;
use bytes::Bytes;

fn put<'a>(key: &'a [u8], value: &'a [u8]) -> Command<'a> {
    Command::Put(Put::new(key, value))
}

fn delete(range: KeyRange<'_>, previous: bool) -> Command<'_> {
    Command::DeleteRange { range, limits: RangeLimits { keys_max: 0x0102_0304, bytes_max: 5 }, previous }
}

fn old_examples() -> Vec<Command<'static>> {
    vec![
        put(b"a", b""),
        Command::Put(Put {
            key: b"\x00\xff",
            value: Some(b"value"),
            lease: LeaseBinding::Lease(u64::MAX),
            condition: Some(Condition::Absent),
            previous: true,
        }),
        Command::Put(Put { condition: Some(Condition::ModRevision(7)), ..Put::new(b"k", b"v") }),
        Command::Put(Put {
            lease: LeaseBinding::Lease(1),
            condition: Some(Condition::Value(b"old")),
            ..Put::new(b"k", b"v")
        }),
        delete(KeyRange { start: b"a", end: Some(b"b") }, true),
        delete(KeyRange::ALL, false),
        Command::RaiseFormat { to: 4 },
    ]
}

const LIMITS: RangeLimits = RangeLimits { keys_max: 0x0102_0304, bytes_max: 5 };

/// Has every compare, operation, sorting and optional number.
fn transaction() -> Transaction<'static> {
    let range = KeyRange { start: b"a", end: Some(b"b") };
    let compare = |target, relation| Compare { range, target, relation };
    let read = RangeRead {
        range,
        revision: Some(1),
        limit: Some(2),
        sort_by: SortBy::Value,
        descending: true,
        keys_only: true,
        count_only: true,
        count: false,
        mod_revision_min: Some(3),
        mod_revision_max: Some(4),
        create_revision_min: Some(5),
        create_revision_max: Some(6),
    };
    let sorted = [SortBy::Key, SortBy::Version, SortBy::CreateRevision, SortBy::ModRevision];
    let reads = sorted.map(|sort_by| Operation::Range(RangeRead { sort_by, ..RangeRead::all_of(KeyRange::ALL) }));
    Transaction {
        compares: vec![
            compare(CompareTarget::Version(1), Relation::Equal),
            compare(CompareTarget::CreateRevision(2), Relation::NotEqual),
            compare(CompareTarget::ModRevision(3), Relation::Less),
            compare(CompareTarget::Value(b"v"), Relation::Greater),
            Compare { range: KeyRange::ALL, target: CompareTarget::Lease(5), relation: Relation::Equal },
        ],
        success: vec![
            Operation::Put(Put::new(b"c", b"1")),
            Operation::DeleteRange { range, previous: true },
            Operation::Range(read),
            Operation::Transaction(Transaction { failure: reads.into(), ..Transaction::default() }),
        ],
        failure: vec![Operation::Put(Put {
            value: None,
            lease: LeaseBinding::Keep,
            previous: true,
            ..Put::new(b"c", b"")
        })],
    }
}

fn new_examples() -> Vec<Command<'static>> {
    let limits = LeaseLimits { leases_max: 3, keys_max: 4 };
    vec![
        Command::Put(Put { lease: LeaseBinding::TimeToLive { ttl_ms: 9 }, ..Put::new(b"k", b"v") }),
        Command::Put(Put { value: None, lease: LeaseBinding::Keep, ..Put::new(b"k", b"") }),
        Command::Put(Put { value: None, ..Put::new(b"k", b"") }),
        Command::Transaction { transaction: transaction(), limits: LIMITS },
        Command::Transaction { transaction: Transaction::default(), limits: LIMITS },
        Command::GrantLease { id: 1, ttl_ms: 2, limits },
        Command::KeepLeaseAlive { id: 1 },
        Command::RevokeLease { id: 1 },
        Command::Expire { leases_max: 1, sessions_max: 2, keys_max: 3 },
        Command::Compact { revision: 1 },
        Command::OpenSession { ttl_ms: 1, sessions_max: 2, answers_max: 3 },
        Command::CloseSession { id: 1 },
    ]
}

fn examples() -> Vec<Command<'static>> {
    [old_examples(), new_examples()].concat()
}

fn encode(commands: &[Command<'_>]) -> Bytes {
    let mut encoder = BatchEncoder::new();
    for command in commands {
        encoder.append(command);
    }
    encoder.take()
}

#[test]
fn every_command_comes_back_as_it_was() {
    let commands = examples();
    let decoded: Result<Vec<_>, _> = BatchDecoder::new(&encode(&commands)).map(|item| item.map(owned)).collect();
    assert_eq!(
        decoded,
        Ok(commands.into_iter().map(|command| owned(BatchItem { session: None, command })).collect::<Vec<_>>())
    );
}

/// Borrowed commands cannot outlive the payload in one expression; their text can.
fn owned(item: BatchItem<'_>) -> String {
    format!("{item:?}")
}

#[test]
fn every_command_comes_back_in_its_session() {
    for call in [
        SessionCall { session: 1, sequence: 2, oldest: 0 },
        SessionCall { session: u64::MAX, sequence: u64::MAX, oldest: u64::MAX },
    ] {
        for command in examples() {
            let mut encoder = BatchEncoder::new();
            let encoded = EncodedCommand::new(&command, Some(call));
            assert_eq!(encoded.format(), crate::state::FORMAT_WITH_TRANSACTIONS);
            encoder.append_encoded(&encoded);
            let payload = encoder.take();
            let items: Vec<_> = BatchDecoder::new(&payload).collect();
            assert_eq!(items, [Ok(BatchItem { session: Some(call), command })]);
        }
    }
}

#[test]
fn what_format_4_adds_is_not_written_before() {
    use crate::state::{FORMAT_WITH_TRANSACTIONS, STATE_FORMAT_OLDEST};
    for command in new_examples() {
        assert_eq!(command.format(), FORMAT_WITH_TRANSACTIONS, "{command:?}");
    }
    for command in old_examples() {
        let has_lease = matches!(&command, Command::Put(put) if put.lease != LeaseBinding::None);
        let expected = if has_lease { FORMAT_WITH_TRANSACTIONS } else { STATE_FORMAT_OLDEST };
        assert_eq!(command.format(), expected, "{command:?}");
    }
}

#[test]
fn encoder_starts_anew_after_take() {
    let mut encoder = BatchEncoder::new();
    encoder.append(&put(b"a", b"1"));
    let first = encoder.take();
    assert!(encoder.is_empty());
    assert_eq!(encoder.bytes_len(), 0);
    encoder.append(&put(b"a", b"1"));
    assert_eq!(encoder.count(), 1);
    assert_eq!(encoder.take(), first);
}

#[test]
fn the_format_is_this_to_the_byte() {
    let expected = [
        &[1, 0, 0, 0, 1][..],                      // version, count
        &[0, 0, 0, 37][..],                        // length
        &[1][..],                                  // put
        &[0; 16][..],                              // session, sequence
        &[1][..],                                  // flags: previous
        &[0, 0, 0, 0, 0, 0, 0, 9][..],             // lease
        &[1][..],                                  // condition: absent
        &[0, 0, 0, 1, b'k', 0, 0, 0, 1, b'v'][..], // key, value
    ]
    .concat();
    let command = Command::Put(Put {
        key: b"k",
        value: Some(b"v"),
        lease: LeaseBinding::Lease(9),
        condition: Some(Condition::Absent),
        previous: true,
    });
    assert_eq!(encode(&[command]), expected);

    let expected = [
        &[1, 0, 0, 0, 1][..],                      // version, count
        &[0, 0, 0, 40][..],                        // length
        &[2][..],                                  // delete range
        &[0; 16][..],                              // session, sequence
        &[3][..],                                  // flags: previous, end
        &[1, 2, 3, 4][..],                         // keys at most
        &[0, 0, 0, 0, 0, 0, 0, 5][..],             // bytes at most
        &[0, 0, 0, 1, b'a', 0, 0, 0, 1, b'b'][..], // start, end
    ]
    .concat();
    assert_eq!(encode(&[delete(KeyRange { start: b"a", end: Some(b"b") }, true)]), expected);
}

fn body(command: &Command<'_>) -> Vec<u8> {
    // Version, count, length, kind, session, sequence.
    encode(std::slice::from_ref(command))[26..].to_vec()
}

#[test]
fn the_new_kinds_are_these_to_the_byte() {
    let number = |number: u8| [0, 0, 0, 0, 0, 0, 0, number];
    let small = |number: u8| [0, 0, 0, number];
    let bodies: Vec<Vec<u8>> = new_examples().iter().map(body).collect();
    let key_and_value = [&small(1)[..], b"k", &small(1), b"v"].concat();
    let key_alone = [&small(1)[..], b"k", &small(0)].concat();
    assert_eq!(bodies[0], [&[0x04][..], &number(9), &[0], &key_and_value].concat(), "a time to live");
    assert_eq!(bodies[1], [&[0x18][..], &number(0), &[0], &key_alone].concat(), "value and lease are kept");
    assert_eq!(bodies[2], [&[0x10][..], &number(0), &[0], &key_alone].concat(), "the value is kept");
    assert_eq!(bodies[4], [&[1, 2, 3, 4][..], &number(5), &[0; 12]].concat(), "an empty transaction");
    assert_eq!(bodies[5], [&number(1)[..], &number(2), &small(3), &small(4)].concat(), "grant");
    assert_eq!([&bodies[6], &bodies[7], &bodies[9], &bodies[11]], [&number(1); 4], "a number alone");
    assert_eq!(bodies[8], [small(1), small(2), small(3)].concat(), "expire");
    assert_eq!(bodies[10], [&number(1)[..], &small(2), &small(3)].concat(), "open a session");
    let kinds: Vec<u8> = new_examples().iter().map(|command| encode(std::slice::from_ref(command))[9]).collect();
    assert_eq!(kinds, [1, 1, 1, 4, 4, 5, 6, 7, 8, 9, 10, 11]);

    let call = SessionCall { session: 1, sequence: 2, oldest: 3 };
    let encoded = EncodedCommand::new(&Command::CloseSession { id: 4 }, Some(call));
    let mut encoder = BatchEncoder::new();
    encoder.append_encoded(&encoded);
    let expected = [&small(33)[..], &[11], &number(1), &number(2), &number(3), &number(4)].concat();
    assert_eq!(encoder.take()[5..], expected);
}

#[test]
fn a_transaction_is_this_to_the_byte() {
    let number = |number: u8| [0, 0, 0, 0, 0, 0, 0, number];
    let small = |number: u8| [0, 0, 0, number];
    let range = [&small(1)[..], b"a", &small(1), b"b"].concat();
    let compare = |relation: u8, target: u8, rest: &[u8]| [&[2][..], &range, &[relation, target], rest].concat();
    let compares = [
        small(5).to_vec(),
        compare(1, 1, &number(1)),
        compare(2, 2, &number(2)),
        compare(3, 3, &number(3)),
        compare(4, 4, &[0, 0, 0, 1, b'v']),
        [&[0][..], &small(0), &[1, 5], &number(5)].concat(),
    ]
    .concat();
    let put = [&[1, 0][..], &number(0), &[0], &small(1), b"c", &small(1), b"1"].concat();
    let delete = [&[2, 3][..], &range].concat();
    let numbers = [1, 2, 3, 4, 5, 6].map(number).concat();
    let read = [&[3, 2][..], &range, &[15, 4, 0x3f], &numbers].concat();
    let plain_read = |sort_by: u8| [&[3, 0][..], &small(0), &[0, sort_by, 0]].concat();
    let reads = [0, 1, 2, 3].map(plain_read).concat();
    let inner = [&[4][..], &small(0), &small(0), &small(4), &reads].concat();
    let success = [&small(4)[..], &put, &delete, &read, &inner].concat();
    let failure = [&small(1)[..], &[1, 0x19], &number(0), &[0], &small(1), b"c", &small(0)].concat();
    let limits = [&[1, 2, 3, 4][..], &number(5)].concat();
    let command = Command::Transaction { transaction: transaction(), limits: LIMITS };
    assert_eq!(body(&command), [limits, compares, success, failure].concat());
}

/// A command whose own bytes end early, in a batch that is whole.
#[test]
fn a_command_cut_anywhere_is_invalid() {
    for command in examples() {
        for call in [None, Some(SessionCall { session: 1, sequence: 2, oldest: 0 })] {
            let mut encoder = BatchEncoder::new();
            encoder.append_encoded(&EncodedCommand::new(&command, call));
            let whole = encoder.take();
            for length in 0..whole.len() - 9 {
                let header = [&[1, 0, 0, 0, 1][..], &u32::try_from(length).unwrap().to_be_bytes()].concat();
                let cut = [&header[..], &whole[9..9 + length]].concat();
                let items: Vec<_> = BatchDecoder::new(&cut).collect();
                assert!(matches!(items[..], [Err(DecodeError::Invalid(_))]), "{command:?} at {length}: {items:?}");
            }
        }
    }
}

#[test]
fn parts_of_a_transaction_that_are_unknown_are_told_apart_from_nonsense() {
    let range = KeyRange { start: b"a", end: None };
    let compare = Compare { range, target: CompareTarget::Version(1), relation: Relation::Equal };
    let with = |transaction: Transaction<'static>, at: usize, byte: u8| {
        let mut bytes = encode(&[Command::Transaction { transaction, limits: LIMITS }]).to_vec();
        // After the limits and the number of compares.
        bytes[26 + 12 + at] = byte;
        BatchDecoder::new(&bytes).next().expect("one item").map(owned)
    };
    let compares = || Transaction { compares: vec![compare], ..Transaction::default() };
    let unknown = |part, found| Err(UnknownFeature::TransactionPart { part, found }.into());
    assert_eq!(with(compares(), 4, 0x80), Err(UnknownFeature::Flags { kind: 4, found: 0x80 }.into()));
    assert_eq!(with(compares(), 10, 9), unknown("relation", 9));
    assert_eq!(with(compares(), 11, 9), unknown("comparison", 9));
    let read = || Transaction { success: vec![Operation::Range(RangeRead::all_of(range))], ..Transaction::default() };
    assert_eq!(with(read(), 8, 9), unknown("operation", 9));
    assert_eq!(with(read(), 15, 0x40), Err(UnknownFeature::Flags { kind: 4, found: 0x40 }.into()));
    assert_eq!(with(read(), 16, 9), unknown("sorting", 9));
    assert_eq!(with(read(), 17, 0x40), Err(UnknownFeature::Flags { kind: 4, found: 0x40 }.into()));
    assert!(matches!(with(read(), 4, 0xff), Err(DecodeError::Invalid(InvalidCommand::Truncated { .. }))));
}

#[test]
fn zeros_and_two_leases_are_invalid() {
    let decode = |command: &Command<'_>| {
        BatchDecoder::new(&encode(std::slice::from_ref(command))).next().expect("one item").map(owned)
    };
    let is_zero = |decoded| matches!(decoded, Err(DecodeError::Invalid(InvalidCommand::Zero { .. })));
    let limits = LeaseLimits { leases_max: 1, keys_max: 1 };
    let lived = Put { lease: LeaseBinding::TimeToLive { ttl_ms: 0 }, ..Put::new(b"k", b"v") };
    assert!(is_zero(decode(&Command::Put(lived))));
    assert!(is_zero(decode(&Command::GrantLease { id: 1, ttl_ms: 0, limits })));
    assert!(is_zero(decode(&Command::OpenSession { ttl_ms: 0, sessions_max: 1, answers_max: 1 })));
    let mut bytes = encode(&[put(b"k", b"v")]).to_vec();
    bytes[17] = 1;
    assert!(is_zero(BatchDecoder::new(&bytes).next().expect("one item").map(owned)), "a session, and no number in it");
    let mut bytes = encode(&[Command::Put(Put { lease: LeaseBinding::Keep, ..Put::new(b"k", b"v") })]).to_vec();
    bytes[34] = 7;
    let decoded = BatchDecoder::new(&bytes).next().expect("one item").map(owned);
    assert_eq!(decoded, Err(InvalidCommand::LeaseTwice.into()));
}

mod rules {
    //! Which transactions make sense.

    use super::*;

    fn puts(key: &'static [u8]) -> Operation<'static> {
        Operation::Put(Put::new(key, b""))
    }

    fn deletes(start: &'static [u8], end: &'static [u8]) -> Operation<'static> {
        Operation::DeleteRange { range: KeyRange { start, end: Some(end) }, previous: false }
    }

    fn nested(success: Vec<Operation<'static>>, failure: Vec<Operation<'static>>) -> Operation<'static> {
        Operation::Transaction(Transaction { compares: Vec::new(), success, failure })
    }

    fn check(success: Vec<Operation<'static>>, failure: Vec<Operation<'static>>) -> Result<(), InvalidCommand> {
        let transaction = Transaction { compares: Vec::new(), success, failure };
        // Whoever applies it comes to the same.
        let payload = encode(&[Command::Transaction { transaction: transaction.clone(), limits: LIMITS }]);
        let decoded = BatchDecoder::new(&payload).next().expect("one item").map(|_| ());
        assert_eq!(decoded, transaction.check().map_err(DecodeError::Invalid));
        transaction.check()
    }

    #[test]
    fn one_key_is_written_once_on_a_way() {
        let twice = Err(TransactionError::WritesTwice.into());
        assert_eq!(check(vec![puts(b"a"), puts(b"a")], vec![]), twice);
        assert_eq!(check(vec![], vec![puts(b"a"), puts(b"a")]), twice);
        assert_eq!(check(vec![puts(b"b"), deletes(b"a", b"c")], vec![]), twice);
        assert_eq!(check(vec![deletes(b"a", b"c"), puts(b"b")], vec![]), twice);
        assert_eq!(check(vec![puts(b"a"), nested(vec![], vec![puts(b"a")])], vec![]), twice);
        assert_eq!(check(vec![nested(vec![puts(b"a")], vec![]), nested(vec![], vec![puts(b"a")])], vec![]), twice);
        assert_eq!(check(vec![nested(vec![deletes(b"a", b"b")], vec![]), puts(b"a")], vec![]), twice);
        assert_eq!(check(vec![nested(vec![nested(vec![puts(b"a")], vec![])], vec![]), puts(b"a")], vec![]), twice);
    }

    #[test]
    fn ways_that_exclude_each_other_may_write_the_same() {
        assert_eq!(check(vec![puts(b"a")], vec![puts(b"a")]), Ok(()));
        assert_eq!(check(vec![nested(vec![puts(b"a")], vec![deletes(b"a", b"b")])], vec![]), Ok(()));
        assert_eq!(check(vec![deletes(b"a", b"c"), deletes(b"b", b"d"), puts(b"d")], vec![]), Ok(()));
        assert_eq!(check(vec![puts(b"a"), puts(b"b"), deletes(b"c", b"d")], vec![]), Ok(()));
    }

    #[test]
    fn depth_conditions_and_empty_keys_are_refused() {
        let mut deep = nested(vec![], vec![]);
        for _ in 2..NESTING_MAX {
            deep = nested(vec![deep], vec![]);
        }
        assert_eq!(check(vec![deep.clone()], vec![]), Ok(()), "transactions lie {NESTING_MAX} deep");
        assert_eq!(check(vec![nested(vec![deep], vec![])], vec![]), Err(TransactionError::TooDeep.into()));
        let conditional = Operation::Put(Put { condition: Some(Condition::Absent), ..Put::new(b"a", b"") });
        assert_eq!(check(vec![], vec![conditional]), Err(TransactionError::Condition.into()));
        assert_eq!(check(vec![puts(b"")], vec![]), Err(InvalidCommand::EmptyKey));
    }

    #[test]
    fn what_a_transaction_touches_is_known_before_it_is_applied() {
        let single = KeyRange { start: b"k", end: Some(b"k\0") };
        let read = |range, revision| Operation::Range(RangeRead { revision, ..RangeRead::all_of(range) });
        let with = |success| Transaction { success, ..Transaction::default() };
        let inner = with(vec![nested(vec![read(single, None), puts(b"p")], vec![])]);
        assert!(inner.is_write() && inner.puts() && !inner.touches_ranges() && !inner.reads_history());
        let mut keys = Vec::new();
        inner.single_keys(&mut |key| keys.push(key));
        assert_eq!((keys, inner.operations()), (vec![&b"k"[..], b"p"], 3));
        let wide = with(vec![nested(vec![], vec![deletes(b"a", b"c")])]);
        assert!(wide.is_write() && !wide.puts() && wide.touches_ranges());
        let old = with(vec![read(single, Some(3))]);
        assert!(!old.is_write() && !old.touches_ranges() && old.reads_history());
    }
}

#[test]
fn what_commands_may_hold_is_what_they_return_or_put_again() {
    let single = KeyRange { start: b"k", end: Some(b"k\0") };
    let plain = Put::new(b"a", b"1");
    let touch = Put { value: None, ..plain };
    let held = |commands: &[Command<'_>]| -> u32 {
        commands.iter().map(|command| EncodedCommand::new(command, None).values_held()).sum()
    };
    assert_eq!(held(&[Command::Put(plain), delete(single, false), Command::KeepLeaseAlive { id: 1 }]), 0);
    let swap = Put { condition: Some(Condition::Absent), previous: true, ..plain };
    let refused = Put { condition: Some(Condition::Absent), ..plain };
    assert_eq!(held(&[Command::Put(refused)]), 0, "it says what is there without its value");
    assert_eq!(held(&[Command::Put(swap), Command::Put(touch), delete(single, true)]), 6);
    for whole in [delete(KeyRange::ALL, false), Command::RevokeLease { id: 1 }] {
        assert_eq!(held(&[whole]), VALUES_HELD_MAX);
    }
    let read = |keys_only| Operation::Range(RangeRead { keys_only, ..RangeRead::all_of(single) });
    let transaction = Transaction {
        compares: vec![Compare { range: single, target: CompareTarget::Value(b"v"), relation: Relation::Equal }],
        success: vec![Operation::Put(touch), read(false), read(true)],
        failure: vec![Operation::Put(plain), read(false)],
    };
    let limits = RangeLimits { keys_max: 9, bytes_max: 9 };
    assert_eq!(held(&[Command::Transaction { transaction, limits }]), 5, "the way that holds more");
}

#[test]
fn every_cut_is_invalid_and_never_a_panic() {
    let whole = encode(&examples());
    for length in 0..whole.len() {
        let items: Vec<_> = BatchDecoder::new(&whole[..length]).collect();
        let (last, before) = items.split_last().expect("a cut batch yields at least its error");
        assert!(matches!(last, Err(DecodeError::Invalid(_))), "cut at {length}: {last:?}");
        assert!(before.iter().all(Result::is_ok), "cut at {length}");
    }
}

#[test]
fn every_flipped_bit_is_decoded_or_refused() {
    let whole = encode(&examples());
    for bit in 0..whole.len() * 8 {
        let mut flipped = whole.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        // Bounded by the bytes there are, whatever the count says.
        assert!(BatchDecoder::new(&flipped).count() <= whole.len());
    }
}

#[test]
fn what_is_unknown_is_told_apart_from_nonsense() {
    let whole = encode(&[put(b"k", b"v")]);
    let with = |at: usize, byte: u8| {
        let mut bytes = whole.to_vec();
        bytes[at] = byte;
        BatchDecoder::new(&bytes).next().expect("one item").map(owned)
    };
    assert_eq!(with(0, 3), Err(UnknownFeature::Version { found: 3, known: 2 }.into()));
    assert_eq!(with(9, 77), Err(UnknownFeature::Kind { found: 77 }.into()));
    assert_eq!(with(26, 0x81), Err(UnknownFeature::Flags { kind: 1, found: 0x80 }.into()));
    assert_eq!(with(35, 9), Err(UnknownFeature::Condition { found: 9 }.into()));
    assert!(matches!(with(39, 200), Err(DecodeError::Invalid(InvalidCommand::Truncated { .. }))));
    assert_eq!(with(4, 0), Err(InvalidCommand::EmptyBatch.into()));
}

/// The bytes of `docs/formats.md`.
#[test]
fn a_batch_with_a_time_has_it_after_the_version() {
    let raise = Command::RaiseFormat { to: 3 };
    let mut encoder = BatchEncoder::new();
    encoder.append(&raise);
    let timed = encoder.take_at(0x0102_0304_0506_0708);
    let command = [&[0, 0, 0, 21, KIND_RAISE_FORMAT][..], &[0; 16], &[0, 0, 0, 3]].concat();
    assert_eq!(timed[..], [&[2, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 1][..], &command].concat());
    encoder.append(&raise);
    let plain = encoder.take();
    assert_eq!(plain[..], [&[1, 0, 0, 0, 1][..], &command].concat());
    for (batch, time_ms) in [(timed, Some(0x0102_0304_0506_0708)), (plain, None)] {
        let decoder = BatchDecoder::new(&batch);
        assert_eq!(decoder.time_ms(), time_ms);
        assert_eq!(decoder.collect::<Vec<_>>(), [Ok(BatchItem { session: None, command: raise.clone() })]);
    }
}

#[test]
fn empty_key_is_invalid_and_the_rest_of_the_batch_goes_on() {
    let payload = encode(&[put(b"", b"v"), put(b"k", b"v")]);
    let items: Vec<_> = BatchDecoder::new(&payload).collect();
    assert_eq!(items[0], Err(InvalidCommand::EmptyKey.into()));
    assert!(items[1].is_ok());
    assert_eq!(items.len(), 2);
}

#[test]
fn bytes_after_the_last_command_are_invalid() {
    let mut payload = encode(&[put(b"k", b"v")]).to_vec();
    payload.push(0);
    let items: Vec<_> = BatchDecoder::new(&payload).collect();
    assert!(items[0].is_ok());
    assert_eq!(items[1], Err(InvalidCommand::TrailingBytes { count: 1 }.into()));
    assert_eq!(items.len(), 2);
}

#[test]
fn single_key_ranges_are_recognized() {
    assert_eq!(KeyRange { start: b"k", end: Some(b"k\0") }.single_key(), Some(&b"k"[..]));
    assert_eq!(KeyRange { start: b"k", end: Some(b"l") }.single_key(), None);
    assert_eq!(KeyRange { start: b"k", end: None }.single_key(), None);
    assert_eq!(KeyRange { start: b"", end: Some(b"\0") }.single_key(), None);
}

#[test]
fn an_answer_that_is_kept_takes_room_as_data_does() {
    let range = KeyRange { start: b"a", end: None };
    let delete = |previous| Operation::DeleteRange { range, previous };
    let call = SessionCall { session: 1, sequence: 1, oldest: 1 };
    let is_growth = |operations: Vec<Operation<'_>>, session| {
        let transaction = Transaction { compares: Vec::new(), success: operations, failure: Vec::new() };
        let limits = RangeLimits { keys_max: 1, bytes_max: 1 };
        EncodedCommand::new(&Command::Transaction { transaction, limits }, session).is_growth()
    };
    let read = Operation::Range(RangeRead::all_of(range));
    assert!(is_growth(vec![delete(false), read.clone()], Some(call)));
    assert!(is_growth(vec![delete(true)], Some(call)));
    assert!(!is_growth(vec![delete(false)], Some(call)), "what makes room is taken");
    assert!(!is_growth(vec![delete(true), read], None), "nothing is kept of it");
}
