#!/usr/bin/python3
"""Writes dbus.json: D-Bus messages as GLib encodes them, each little-endian and big-endian. Needs python3-gi."""
import ctypes
import json
import pathlib

import gi

gi.require_version('Gio', '2.0')
from gi.repository import Gio, GLib

NAME = 'org.freedesktop.systemd1'
ROOT = '/org/freedesktop/systemd1'
MANAGER = NAME + '.Manager'
UNIT = ROOT + '/unit/nginx_2eservice'


def call(destination, path, interface, member, body):
    message = Gio.DBusMessage.new_method_call(destination, path, interface, member)
    message.set_flags(Gio.DBusMessageFlags.NO_AUTO_START)
    message.set_serial(7)
    if body is not None:
        message.set_body(body)
    return message


def come(kind, body):
    message = Gio.DBusMessage()
    message.set_message_type(kind)
    message.set_flags(Gio.DBusMessageFlags.NO_REPLY_EXPECTED)
    message.set_sender(':1.3')
    message.set_serial(11)
    if body is not None:
        message.set_body(body)
    return message


def reply(body):
    message = come(Gio.DBusMessageType.METHOD_RETURN, body)
    message.set_reply_serial(7)
    message.set_destination(':1.9')
    return message


def error(name, text):
    message = come(Gio.DBusMessageType.ERROR, GLib.Variant('(s)', (text,)))
    message.set_reply_serial(7)
    message.set_error_name(name)
    return message


def signal(member, body):
    message = come(Gio.DBusMessageType.SIGNAL, body)
    message.set_path(ROOT)
    message.set_interface(MANAGER)
    message.set_member(member)
    return message


def unknown_fields():
    message = reply(GLib.Variant('(b)', (True,)))
    # The binding takes only the header fields it knows. A GObject's hash is its address.
    set_header = ctypes.CDLL('libgio-2.0.so.0').g_dbus_message_set_header
    set_header.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p]
    parsed = ctypes.CDLL('libglib-2.0.so.0').g_variant_new_parsed
    parsed.argtypes, parsed.restype = [ctypes.c_char_p], ctypes.c_void_p
    set_header(hash(message), 200, parsed(b"@a{s(xai)} {'a': (-5, [1, 2, 3]), 'b': (9, [])}"))
    set_header(hash(message), 201, parsed(b'@ay [1, 2, 3]'))
    return message


EVERYTHING = GLib.Variant('(ybnqiuxtdsoga{sv}a(yas)ava{t(bd)})', (
    250, True, -3, 65000, -70000, 4000000000, -(1 << 60), (1 << 63) + 1, 0.5, 'naïve ✓', '/a/_b', 'a{sv}(ii)',
    {'x': GLib.Variant('s', 'y')}, [(1, ['p', '']), (2, [])], [GLib.Variant('s', 'z')], {7: (False, -1.5)},
))

MESSAGES = {
    'hello': call('org.freedesktop.DBus', '/org/freedesktop/DBus', 'org.freedesktop.DBus', 'Hello', None),
    'unit-by-pid': call(':1.3', ROOT, MANAGER, 'GetUnitByPID', GLib.Variant('(u)', (4711,))),
    'property': call(None, UNIT, 'org.freedesktop.DBus.Properties', 'Get', GLib.Variant('(ss)', (NAME + '.Unit', 'Id'))),
    'unit': reply(GLib.Variant('(o)', (UNIT,))),
    'text': reply(GLib.Variant('(v)', (GLib.Variant('s', 'nginx.service'),))),
    'nothing': reply(None),
    'no-unit': error(NAME + '.NoUnitForPID', 'PID 4711 does not belong to any loaded unit.'),
    'unit-removed': signal('UnitRemoved', GLib.Variant('(so)', ('nginx.service', UNIT))),
    'reloading': signal('Reloading', GLib.Variant('(b)', (False,))),
    'unknown-fields': unknown_fields(),
    'everything': reply(EVERYTHING),
}


def both(message):
    for order in (Gio.DBusMessageByteOrder.LITTLE_ENDIAN, Gio.DBusMessageByteOrder.BIG_ENDIAN):
        message.set_byte_order(order)
        yield bytes(message.to_blob(Gio.DBusCapabilityFlags.NONE)).hex()


target = pathlib.Path(__file__).with_name('dbus.json')
target.write_text(json.dumps({name: list(both(message)) for name, message in MESSAGES.items()}, indent=1) + '\n')
