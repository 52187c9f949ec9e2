// SPDX-License-Identifier: GPL-2.0-or-later

//! The table of tests that run in the host under test.
