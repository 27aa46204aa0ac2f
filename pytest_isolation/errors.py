"""Every exception that pytest-isolation raises on purpose.

IsolationError              something that pytest-isolation has to say
├── MisuseError             it was asked for something impossible: what, where, and the right form
│   ├── MarkerError         … by a marker
│   ├── SettingError        … by an option, an ini value or an environment variable
│   ├── BackendError        … by the backend under test
│   └── TokenError          … by a replay token
├── NothingMeasured         a test that would have been green without having measured anything
└── PluginFault             pytest-isolation itself broke; the test is not to blame
"""

from __future__ import annotations


class IsolationError(Exception):
    """Something that pytest-isolation has to say to the person who runs the tests."""


class MisuseError(IsolationError):
    """pytest-isolation was asked for something that it cannot do."""


class MarkerError(MisuseError):
    """A marker is misspelt, impossible, or stands where it cannot work."""


class SettingError(MisuseError):
    """An option, an ini value or an environment variable has an impossible value."""


class BackendError(MisuseError):
    """The backend under test cannot be found, made, or does not satisfy the protocol."""


class TokenError(MisuseError):
    """A replay token cannot be read."""


class NothingMeasured(IsolationError):
    """A test ended without having measured anything; green would be a lie."""


class PluginFault(IsolationError):
    """pytest-isolation itself broke while it judged a test."""


class IsolationWarning(UserWarning):
    """A test proves less than it seems to."""
