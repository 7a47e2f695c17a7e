"""What went wrong, in one line: the user's word that Hydra refused, and the nearest right names."""

import itertools
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lightbed import catalogue
from lightbed.errors import UserError, nearest, printable
from lightbed.names import closest, flatten, sure
from lightbed.words import Line

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override
    from omegaconf import DictConfig

LONGEST = 600  # characters of a message


def one_line(error: BaseException) -> str:
    """The message in one line; of an error that a worker process handed over, only its own last line."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    if "Original Traceback" in str(error):
        return printable(lines[-1].partition("Error: ")[2] or lines[-1])
    text = " ".join(line for line in lines if "hydra.cc/docs" not in line)
    text = printable(text)
    return text if len(text) <= LONGEST else text[:LONGEST].rsplit(" ", 1)[0] + " ..."


def users_mistake(error: BaseException) -> UserError | None:
    """The user's mistake behind an error that a command raised, or None where it is none of theirs."""
    if (own := _ours(error)) is not None:
        return own
    for link in _chain(error):
        kinds = {kind.__name__ for kind in type(link).__mro__}  # by name: neither library is imported for it
        if kinds & {"MisconfigurationException", "OmegaConfBaseException"}:
            resolver = re.search(r"UserError raised while resolving interpolation: (.+)", str(link))
            if resolver:  # one of ours said it; OmegaConf keeps no more than its words
                return UserError(resolver[1])
            key = getattr(link, "full_key", None)
            return UserError(f"{f'{key}: ' if key else ''}{_reason(link)}")
    return None


def _ours(error: BaseException) -> UserError | None:
    """Our own words behind an error, which say more than a library's around them."""
    return next((link for link in _chain(error) if isinstance(link, UserError)), None)


def _chain(error: BaseException) -> list[BaseException]:
    chain = [error]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    return chain


def explain(error: BaseException, line: Line) -> UserError | None:
    """The user's mistake behind an error that Hydra raised before the command ran; None where it is none of theirs."""
    from hydra.errors import HydraException

    told = _ours(error) or (None if isinstance(error, HydraException) else users_mistake(error)) or find(line)
    if told is not None:
        return told
    if isinstance(error, HydraException | ValueError | OSError) or type(error).__module__.startswith("yaml."):
        return UserError(_reason(error))
    return None


def find(line: Line) -> UserError | None:
    """Why Hydra refuses `line`: its words are added one by one until one does not fit.

    Choices of groups come first, for the keys that exist follow from them.
    """
    try:
        words = [(word, parse(word)) for word in line.overrides]
        compose = Composer(line)
        words.sort(key=lambda pair: str(pair[1].key_or_group) not in compose.groups)
        taken: list[str] = []
        for word, override in words:
            if override.is_sweep_override() and not (line.flags.multirun or _says_multirun(compose, words)):
                return UserError(_several(word, str(override.key_or_group) in compose.groups))
            taken.append(_fit(word, override, compose, taken))
        params = compose(taken).hydra.sweeper.get("params") or {}
        for word in [f"{key}={value}" for key, value in params.items()]:
            taken.append(_fit(word, parse(word), compose, taken))
    except UserError as told:
        return told
    except Exception:  # the base itself does not compose: Hydra's own words tell why
        return None
    return None


def _says_multirun(compose: "Composer", words: "list[tuple[str, Override]]") -> bool:
    """Whether the configuration itself asks for a multirun, as those of the group `sweep` do."""
    chosen = [word for word, override in words if not override.is_sweep_override()]
    try:
        return str(compose(chosen).hydra.mode).endswith("MULTIRUN")
    except Exception:  # one of the words is the fault that is looked for
        return False


def _several(word: str, is_group: bool) -> str:
    key, _, values = word.partition("=")
    as_list = "" if is_group or "(" in values else f", or write '{key}=[{values}]' for a list"
    return f"{word} holds several values: add -m for a run each{as_list}"


def _fit(word: str, override: "Override", compose: "Composer", taken: list[str]) -> str:
    """The word, or a sweep's first value, if it and all its values fit to those that are `taken`."""
    several = singles(word, override, compose.groups)
    for single in several:
        try:
            compose([*taken, single])
        except Exception as error:
            raise _told(single, override, error, compose, taken) from error
    return several[0]


def singles(word: str, override: "Override", groups: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A sweep's `key=value` for each value; the word itself where it is no sweep."""
    if not override.is_sweep_override():
        return [word]
    key = word.partition("=")[0]
    value: Any = override.value()
    if hasattr(value, "filter"):  # glob(...), of the options of a group
        names = value.filter(list(groups.get(str(override.key_or_group), ())))
        if not names:
            raise UserError(
                f"{word} fits no option; glob(...) chooses among the files of a group, as in model=glob(res*)"
            )
        return [f"{key}={name}" for name in names]
    if not override.is_discrete_sweep():  # an interval: any value of it will do
        return [f"{key}={value.start}"]
    return [f"{key}={value}" for value in itertools.islice(override.sweep_string_iterator(), 1000)]


class Composer:
    """Composes configs as Hydra would for this line, with other overrides."""

    def __init__(self, line: Line) -> None:
        self.folders, self.config = line.folders, line.config
        self.groups = catalogue.groups(line.folders)

    def __call__(self, overrides: list[str]) -> "DictConfig":
        from hydra import compose, initialize_config_dir
        from hydra.core.global_hydra import GlobalHydra

        further = ",".join(f"'file://{folder.resolve()}'" for folder in self.folders[1:])
        path = [f"hydra.searchpath=[{further}]"] if further else []
        GlobalHydra.instance().clear()
        try:
            with initialize_config_dir(str(self.folders[0].resolve()), version_base="1.3"):
                return compose(self.config, overrides=[*overrides, *path], return_hydra_config=True)
        finally:
            GlobalHydra.instance().clear()

    def names(self, taken: list[str], *, hydra: bool = False) -> dict[str, Any]:
        """Values of all keys, dotted, and of all groups, once `taken` is chosen; `hydra`: of Hydra's own, instead."""
        choices: dict[str, Any] = dict.fromkeys(self.groups, "...")
        found = choices | dict(flatten(self(taken)))
        return {key: value for key, value in found.items() if bool(re.match("hydra([./]|$)", key)) == hydra}


def parse(word: str) -> "Override":
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return OverridesParser.create().parse_override(word)
    except HydraException as error:
        raise UserError(_unreadable(word, error)) from error


def _unreadable(word: str, error: Exception) -> str:
    key, equals, value = word.partition("=")
    if not equals:
        return f"'{word}' is no key=value: {_as_setting(word)}"
    if not key or word != word.strip():
        return f"'{word}' is no key=value: write it without spaces around the ="
    for opening, closing in ("[]", "{}", "()"):
        if value.count(opening) != value.count(closing):
            return f"{word} cannot be read: {opening} and {closing} do not match; put '...' around it for the shell"
    quoted = f"'{key}=\"{value}\"'"
    return f"{word} cannot be read ({_reason(error).partition(' expecting')[0]}); if it is a text, quote it: {quoted}"


def _as_setting(word: str) -> str:
    """How a bare word was perhaps meant."""
    groups = catalogue.groups([catalogue.conf_dir()])
    options = [f"{group}={word}" for group, names in groups.items() if word in names]
    if options:
        return f"did you mean {' or '.join(options)}?"
    if word in groups:
        return f"{word} needs a value, such as {word}={next(iter(groups[word]))}"
    return f"settings are written key=VALUE, as in {word or 'seed'}=...; see --help"


def _told(word: str, override: "Override", error: Exception, compose: Composer, taken: list[str]) -> UserError:
    """The user's mistake where `word` does not fit a config of `taken`."""
    key, value = str(override.key_or_group), word.partition("=")[2]
    if type(error).__name__ == "MissingConfigException":
        options = list(compose.groups.get(key, ())) or re.findall(r"^\t(\S+)$", str(error), re.M)
        missing = re.search(r"Could not find '([^']+)'", str(error))
        if missing and missing[1] != f"{key}/{value}":  # not the option itself, but what its own file asks for
            return UserError(f"{word}: its file names {missing[1]}, which does not exist")
        return UserError(f"{key}={value} does not exist: {nearest(value, options)}")
    names = compose.names(taken, hydra=key.startswith("hydra"))
    if override.is_add() and key in names:
        return UserError(f"{word}: {key} is there already, so it needs no +: write {word.lstrip('+')}")
    if key not in names and ("Could not" in str(error) or "does not exist" in str(error)):
        return UserError(f"{key} does not exist: {_advice(key, value, names)}")
    return UserError(f"{word}: {_reason(error)}")


def _advice(key: str, value: str, names: dict[str, Any]) -> str:
    """What to write instead of a key that is not among `names`."""
    parent = key.rpartition(".")[0]
    while parent and parent not in names:
        parent = parent.rpartition(".")[0]
    rest = key.removeprefix(f"{parent}.")
    if parent and names[parent] == "..." and not any(name.startswith(f"{parent}.") for name in names):
        return f"no {parent} is chosen; name one before it, as in {parent}=NAME {key}={value}"
    if parent and names[parent] is None:
        return f"{parent} is null; give the whole of it: '{parent}={{{rest}: {value}}}'"
    if parent and names[parent] == {}:
        return f"{parent} is empty; + adds to it: +{key}={value}"
    return sure(key, names) or _addable(key, value, parent, names) or closest(key, names)


def _addable(key: str, value: str, parent: str, names: dict[str, Any]) -> str:
    """The advice to use +, where `key` is no typo but a parameter that its class has and the config does not list."""
    target, last = names.get(f"{parent}._target_"), key.removeprefix(f"{parent}.")
    if not isinstance(target, str) or target == "???" or "." in last:
        return ""
    try:
        from lightbed.build import locate, parameters  # torch and all

        takes = parameters(locate(target, parent)) or []
    except Exception:  # what the config names may be missing, or broken: then nothing is known of it
        return ""
    return f"{target} takes it, but the config does not list it: +{key}={value}" if last in takes else ""


def _reason(error: BaseException) -> str:
    """Why, in one line: of Hydra's errors the cause, without its advice and its links."""
    text = str(error).strip()
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}"
    cause = error.__cause__
    if cause is not None and (not text or text.startswith("Error merging override")):
        return _reason(cause)
    text = re.split(r"\n\s*(?:full_key|object_type|See |Search path|Config search path|To append)", text)[0]
    return one_line(type(error)(text)) if text else type(error).__name__
