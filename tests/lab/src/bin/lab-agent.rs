// SPDX-License-Identifier: GPL-2.0-or-later

//! The first process of the host under test; see `lab::agent`.

fn main() {
    lab::agent::main()
}
