# Copyright: podbridge contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation of the action plugin `synchronize`, which runs on the controller; this module has no code."""

from __future__ import annotations

DOCUMENTATION = r"""
module: synchronize
author: podbridge contributors (!UNKNOWN)
short_description: Copy trees to and from pods, with rsync or without
description:
  - If the pod and the controller have C(rsync), this action runs M(ansible.posix.synchronize), unchanged. On hosts with
    another connection it does the same. Otherwise it runs C(podbridge sync) with the same options.
  - An option that C(podbridge sync) does not support is an error.
  - C(podbridge sync) always keeps extended attributes and hard links. Each file appears when it is complete. It does
    not read files named C(.rsync-filter).
  - If C(delegate_to) names another pod, the files are copied from that pod through the controller to the host's pod.
    M(ansible.posix.synchronize) cannot do this for pods. With C(delegate_to=localhost) they are copied from the
    controller.
  - To use this action under the short name C(synchronize), add its directory to C(ANSIBLE_ACTION_PLUGINS).
version_added: 0.1.0
options:
  src:
    description:
      - Path on the source host. With a slash at its end, the content of the directory is copied. Without it, the
        directory itself is copied.
    type: path
    required: true
  dest:
    description: Path on the destination host.
    type: path
    required: true
  mode:
    description:
      - Direction of the copy. V(push) copies to the pod, V(pull) from the pod.
      - Without rsync, V(pull) leaves out set-user-ID and set-group-ID bits of files, devices and file capabilities,
        because a pod may be hostile.
    type: str
    choices: [push, pull]
    default: push
  archive:
    description: Default of O(recursive), O(links), O(perms), O(times), O(owner) and O(group).
    type: bool
    default: true
  recursive:
    description: Copy directories with their content. Without rsync it must be V(true).
    type: bool
  links:
    description: Copy symbolic links as links. Without rsync it must be V(true).
    type: bool
  perms:
    description: Keep permissions. Without rsync it must be V(true).
    type: bool
  times:
    description: Keep modification times. Without rsync it must be V(true).
    type: bool
  owner:
    description: Keep owners, if the receiver runs as root. Without rsync it must have the value of O(group).
    type: bool
  group:
    description: Keep groups.
    type: bool
  delete:
    description: Delete files in O(dest) that O(src) does not have. Excluded files stay.
    type: bool
    default: false
  checksum:
    description: Compare contents instead of sizes and modification times.
    type: bool
    default: false
  compress:
    description:
      - Compress the data. Without rsync this happens only while the connection is slow and the data is compressible.
    type: bool
    default: true
  dirs:
    description: Has no effect together with O(recursive).
    type: bool
    default: false
  existing_only:
    description: Create no new files in O(dest). Supported only with rsync.
    type: bool
    default: false
  copy_links:
    description: Copy the targets of symbolic links instead of the links. Supported only with rsync.
    type: bool
    default: false
  link_dest:
    description: Directories whose unchanged files are linked instead of copied. Supported only with rsync.
    type: list
    elements: path
  rsync_path:
    description: Path of rsync in the pod. Supported only with rsync.
    type: str
  rsync_opts:
    description:
      - Further options of rsync.
      - Without rsync these are supported; C(--exclude), C(--include), C(--delete) and its variants such as
        C(--delete-after), C(--checksum), C(--compress), C(--dry-run), C(--archive) and the options that it stands for,
        their opposites such as C(--no-owner), and options that only change how rsync works or what it prints.
    type: list
    elements: str
    default: []
  dest_port:
    description: Option of ssh. It has no effect for pods.
    type: int
  private_key:
    description: Option of ssh. It has no effect for pods.
    type: path
  verify_host:
    description: Option of ssh. It has no effect for pods.
    type: bool
    default: false
  use_ssh_args:
    description: Option of ssh. It has no effect for pods.
    type: bool
    default: false
  ssh_connection_multiplexing:
    description: Option of ssh. It has no effect for pods.
    type: bool
    default: false
  set_remote_user:
    description: Has no effect for pods. Only C(become) and C(ansible_podbridge_user) choose the user there.
    type: bool
    default: true
  rsync_timeout:
    description: Has an effect only with rsync. podbridge detects dead connections itself.
    type: int
    default: 0
  partial:
    description: Has an effect only with rsync. podbridge never keeps a partial file.
    type: bool
    default: false
  delay_updates:
    description: Has an effect only with rsync.
    type: bool
    default: true
seealso:
  - module: ansible.posix.synchronize
"""

EXAMPLES = r"""
- name: Copy the repositories of a build to a pod
  podbridge.zuul.synchronize:
    src: "{{ zuul.executor.src_root }}/"
    dest: "{{ ansible_user_dir }}/src/"
    delete: true
    owner: false
    group: false

- name: Fetch the output of a pod without its caches
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
  description: Exit code of that command.
  returned: always
  type: int
msg:
  description: Changed paths, one per line; after a failure, its reason.
  returned: always
  type: str
stdout_lines:
  description: Lines of the output, one for each changed path.
  returned: always
  type: list
"""
