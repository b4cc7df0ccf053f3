# SPDX-License-Identifier: BSD-2-Clause
# bash completion of vmcore(1)
_vmcore()
{
    local cur prev
    cur=${COMP_WORDS[COMP_CWORD]}
    prev=${COMP_WORDS[COMP_CWORD - 1]}
    if [ "$COMP_CWORD" = 1 ]; then
        mapfile -t COMPREPLY < <(compgen -W "$(vmcore help | awk '/^  / {print $1}')" -- "$cur")
        return
    fi
    if [ "${COMP_WORDS[1]}" = ctl ] && [ "$COMP_CWORD" = 3 ]; then
        mapfile -t COMPREPLY < <(compgen -W \
            "list stats pause resume powerdown quit set balloon idle-tax" -- "$cur")
        return
    fi
    case $prev in
    --engine) mapfile -t COMPREPLY < <(compgen -W "auto kvm soft" -- "$cur") ;;
    --cpu) mapfile -t COMPREPLY < <(compgen -W "$(vmcore run --cpu help | awk '{print $1}')" -- "$cur") ;;
    --net) mapfile -t COMPREPLY < <(compgen -W "user tap:" -- "$cur") ;;
    --serial) mapfile -t COMPREPLY < <(compgen -W "stdio file: unix: pty none" -- "$cur") ;;
    --debugcon | --parallel) mapfile -t COMPREPLY < <(compgen -W "stdio file:" -- "$cur") ;;
    *)
        if [[ $cur == -* ]]; then
            mapfile -t COMPREPLY < <(compgen -W "$(vmcore "${COMP_WORDS[1]}" --help 2>/dev/null |
                grep -o -- '--[a-z-]*' | sort -u)" -- "$cur")
        else
            mapfile -t COMPREPLY < <(compgen -f -- "$cur")
        fi
        ;;
    esac
}
complete -o filenames -F _vmcore vmcore
