# Copyright: podbridge contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation of the action of this name, which does all the work on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: synchronize
author: podbridge contributors (!UNKNOWN)
short_description: Copy trees to and from pods, with rsync or without
description:
  - Where the pod and the controller have C(rsync), and on hosts of other connections, this is
    M(ansible.posix.synchronize), unchanged. Where the pod has none, the same options are done by C(podbridge sync).
  - An option that C(podbridge sync) cannot do is an error. Extended attributes and hard links are kept also where rsync
    was not asked to. Files appear one after the other, each when it is whole.
  - Files named C(.rsync-filter) are not read.
  - With C(delegate_to) another pod the tree goes from that pod through the controller to the host's pod, which
    M(ansible.posix.synchronize) cannot do for pods. With C(delegate_to=localhost) it goes from the controller.
  - Placed in a directory of C(ANSIBLE_ACTION_PLUGINS) it takes the place of the short name C(synchronize).
version_added: 0.1.0
options:
  src:
    description: Path on the source host. With a slash at its end what is in it is copied, else it itself.
    type: path
    required: true
  dest:
    description: Path on the destination host.
    type: path
    required: true
  mode:
    description: V(push) is towards the pod, V(pull) from it.
    type: str
    choices: [push, pull]
    default: push
  archive:
    description: The default of O(recursive), O(links), O(perms), O(times), O(owner) and O(group).
    type: bool
    default: true
  recursive:
    description: Only V(true) without rsync.
    type: bool
  links:
    description: Only V(true) without rsync.
    type: bool
  perms:
    description: Only V(true) without rsync.
    type: bool
  times:
    description: Only V(true) without rsync.
    type: bool
  owner:
    description: Keep owners where the receiver is root. Without rsync it has to be the same as O(group).
    type: bool
  group:
    description: Keep groups.
    type: bool
  delete:
    description: Remove from O(dest) what O(src) does not have, less what is excluded.
    type: bool
    default: false
  checksum:
    description: Compare contents instead of sizes and modification times.
    type: bool
    default: false
  compress:
    description: Compress what is sent; without rsync only while the connection is slow and the data shrinks.
    type: bool
    default: true
  dirs:
    description: Means nothing beside O(recursive).
    type: bool
    default: false
  existing_only:
    description: Create nothing. Only with rsync.
    type: bool
    default: false
  copy_links:
    description: Copy what links point to. Only with rsync.
    type: bool
    default: false
  link_dest:
    description: Directories to make hard links from. Only with rsync.
    type: list
    elements: path
  rsync_path:
    description: The rsync of the pod. Only with rsync.
    type: str
  rsync_opts:
    description:
      - Further options of rsync. Without rsync C(--exclude), C(--include), C(--delete) with its times, C(--checksum),
        C(--compress), C(--dry-run), those of archive and their opposites, and what only changes how rsync works or what
        it prints.
    type: list
    elements: str
    default: []
  dest_port:
    description: Of ssh, as the four below; without a meaning for pods.
    type: int
  private_key:
    description: See O(dest_port).
    type: path
  verify_host:
    description: See O(dest_port).
    type: bool
    default: false
  use_ssh_args:
    description: See O(dest_port).
    type: bool
    default: false
  ssh_connection_multiplexing:
    description: See O(dest_port).
    type: bool
    default: false
  set_remote_user:
    description: Without a meaning for pods, where only C(become) and C(ansible_podbridge_user) choose a user.
    type: bool
    default: true
  rsync_timeout:
    description: Only with rsync; podbridge finds out by itself that a connection is dead.
    type: int
    default: 0
  partial:
    description: Only with rsync; podbridge keeps no part of a file.
    type: bool
    default: false
  delay_updates:
    description: Only with rsync.
    type: bool
    default: true
seealso:
  - module: ansible.posix.synchronize
"""

EXAMPLES = r"""
- name: Bring the repositories of a build to a pod
  podbridge.zuul.synchronize:
    src: "{{ zuul.executor.src_root }}/"
    dest: "{{ ansible_user_dir }}/src/"
    delete: true
    owner: false
    group: false

- name: Fetch what a pod made, less its caches
  podbridge.zuul.synchronize:
    mode: pull
    src: /root/output/
    dest: "{{ zuul.executor.log_root }}/"
    rsync_opts:
      - --exclude=.cache/
"""

RETURN = r"""
cmd:
  description: The command that ran.
  returned: always
  type: str
rc:
  description: Its exit code.
  returned: always
  type: int
msg:
  description: What changed, a line for each path; or why it failed.
  returned: always
  type: str
stdout_lines:
  description: The lines of what changed.
  returned: always
  type: list
"""
