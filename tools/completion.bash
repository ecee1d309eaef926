# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Completion of vchan-vsock for bash; it is installed as
# share/bash-completion/completions/vchan-vsock, or:  . tools/completion.bash
#
# What can be completed is asked of the command itself, of its --help, so that it is
# never out of date.  There, a line of the list of options begins with at most eight blanks
# and a "-", and its explanation with two blanks or on the next line.

# The command that is typed, with the arguments that follow.
_vchan_vsock_ask() {
	local command=${COMP_WORDS[0]/#\~/$HOME}

	"$command" "$@" </dev/null 2>/dev/null
}

# The subcommands.
_vchan_vsock_commands() {
	_vchan_vsock_ask --help | sed -n 's/^  \([a-z][a-z]*\)  .*/\1/p'
}

# The options of a subcommand with what they want: "--exec COMMAND", one a line.
_vchan_vsock_options() {
	_vchan_vsock_ask "$1" --help |
		sed -n 's/^ \{1,8\}\(-.*\)/\1/p' | sed 's/  .*//; s/, /\n/g' |
		sed -n 's/^\(--[a-z0-9-]*\)/\1/p'
}

# What the word after a long option is, as the help has it: COMMAND, FILE, ...
_vchan_vsock_value() {
	_vchan_vsock_options "$1" | sed -n "s/^$2 //p" | head -n 1
}

# To COMPREPLY, of all lines that come, those that begin with the word.
_vchan_vsock_offer() {
	mapfile -t COMPREPLY < <(compgen -W "$(cat)" -- "$1")
}

_vchan_vsock_complete_value() {
	case $1 in
	*FILE* | *PATH* | *SOCKET*)
		compopt -o filenames 2>/dev/null
		mapfile -t COMPREPLY < <(compgen -f -- "$2") ;;
	*DIR*)
		compopt -o filenames 2>/dev/null
		mapfile -t COMPREPLY < <(compgen -d -- "$2") ;;
	*COMMAND*)
		mapfile -t COMPREPLY < <(compgen -c -- "$2") ;;
	esac
}

_vchan_vsock() {
	local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]}
	local command=${COMP_WORDS[1]} value=

	COMPREPLY=()
	if ((COMP_CWORD == 1)); then
		_vchan_vsock_offer "$word" < <(
			_vchan_vsock_commands
			printf '%s\n' --help --version
		)
		return
	fi
	[[ $before == --* ]] && value=$(_vchan_vsock_value "$command" "$before")
	if [[ $value ]]; then
		_vchan_vsock_complete_value "$value" "$word"
	elif [[ $word == -* ]]; then
		_vchan_vsock_offer "$word" < <(_vchan_vsock_options "$command" |
			sed 's/[ [].*//')
	elif _vchan_vsock_ask "$command" --help | head -n 1 | grep -q DOMAIN; then
		_vchan_vsock_offer "$word" <<<host
	fi
}

complete -F _vchan_vsock vchan-vsock
