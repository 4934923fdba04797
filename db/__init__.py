"""The memory: tables, connections, migrations, and the state folder."""

from db.environment import BadSetting
from db.session import Database
from db.settings import DatabaseSettings, RedisSettings, database_settings, redis_url
from db.state import State

__all__ = ["BadSetting", "Database", "DatabaseSettings", "RedisSettings", "State", "database_settings", "redis_url"]
