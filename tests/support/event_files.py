"""Reads TensorBoard's event files record by record, without TensorBoard."""

import struct

from tensorboardX.proto import event_pb2


def events_of(folder):
    """Events of the only file of a folder, by the framing of TFRecord."""
    (path,) = folder.glob("events*")
    data, found, at = path.read_bytes(), [], 0
    while at < len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        found.append(event_pb2.Event.FromString(data[at + 12 : at + 12 + length]))
        at += 16 + length
    return found


def values_of(folder):
    return [(e.step, v) for e in events_of(folder) for v in e.summary.value]
