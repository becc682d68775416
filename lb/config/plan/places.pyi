from lb.config.schema.routes.match import MatchConfig

MODELS: str

def place_of(match: MatchConfig) -> tuple[str, bool, str, str]: ...
