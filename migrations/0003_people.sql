-- People: local users, what they reach, their sessions, and API keys. Adopts like the first migration.

-- A platform may have such a table. Its rows are no users of ours, and its roles give no rights, until `enrolled_at` is set.
CREATE TABLE IF NOT EXISTS control_plane.users (id uuid PRIMARY KEY DEFAULT gen_random_uuid());
ALTER TABLE control_plane.users
    -- What is typed to log in.
    ADD COLUMN IF NOT EXISTS name text,
    -- argon2id, as a PHC string.
    ADD COLUMN IF NOT EXISTS password_hash text,
    ADD COLUMN IF NOT EXISTS role text NOT NULL DEFAULT 'member',
    ADD COLUMN IF NOT EXISTS permissions text[] NOT NULL DEFAULT '{backup:read,backup:write}',
    ADD COLUMN IF NOT EXISTS organization_id text,
    ADD COLUMN IF NOT EXISTS disabled boolean NOT NULL DEFAULT false,
    ADD COLUMN IF NOT EXISTS created_at timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN IF NOT EXISTS last_login_at timestamptz,
    ADD COLUMN IF NOT EXISTS enrolled_at timestamptz;
CREATE UNIQUE INDEX IF NOT EXISTS idx_users_enrolled_name ON control_plane.users (lower(name)) WHERE enrolled_at IS NOT NULL;
CREATE INDEX IF NOT EXISTS idx_users_enrolled_created ON control_plane.users (created_at DESC, id DESC) WHERE enrolled_at IS NOT NULL;
CREATE INDEX IF NOT EXISTS idx_users_organization_id ON control_plane.users (organization_id) WHERE enrolled_at IS NOT NULL;

CREATE TABLE IF NOT EXISTS control_plane.memberships (
    user_id uuid NOT NULL,
    project_id text NOT NULL,
    PRIMARY KEY (user_id, project_id)
);
ALTER TABLE control_plane.memberships
    ADD COLUMN IF NOT EXISTS user_id uuid NOT NULL,
    ADD COLUMN IF NOT EXISTS project_id text NOT NULL;

-- The id is the token's `jti`. Without its row a token is worth nothing.
CREATE TABLE IF NOT EXISTS control_plane.sessions (id uuid PRIMARY KEY);
ALTER TABLE control_plane.sessions
    ADD COLUMN IF NOT EXISTS user_id uuid NOT NULL,
    ADD COLUMN IF NOT EXISTS created_at timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN IF NOT EXISTS expires_at timestamptz NOT NULL;
CREATE INDEX IF NOT EXISTS idx_sessions_user_id ON control_plane.sessions (user_id);
CREATE INDEX IF NOT EXISTS idx_sessions_expires_at ON control_plane.sessions (expires_at);

CREATE TABLE IF NOT EXISTS control_plane.api_keys (id uuid PRIMARY KEY);
ALTER TABLE control_plane.api_keys
    ADD COLUMN IF NOT EXISTS name text,
    -- SHA-256 of a random secret, so it needs no salt and no slow hash.
    ADD COLUMN IF NOT EXISTS secret_sha256 bytea,
    -- Who made it: the local user, if it was one, and the name in the history.
    ADD COLUMN IF NOT EXISTS user_id uuid,
    ADD COLUMN IF NOT EXISTS created_by text,
    ADD COLUMN IF NOT EXISTS role text NOT NULL DEFAULT 'member',
    ADD COLUMN IF NOT EXISTS permissions text[] NOT NULL DEFAULT '{}',
    ADD COLUMN IF NOT EXISTS project_ids text[] NOT NULL DEFAULT '{}',
    ADD COLUMN IF NOT EXISTS organization_id text,
    ADD COLUMN IF NOT EXISTS created_at timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN IF NOT EXISTS expires_at timestamptz,
    ADD COLUMN IF NOT EXISTS last_used_at timestamptz,
    ADD COLUMN IF NOT EXISTS revoked_at timestamptz;
CREATE INDEX IF NOT EXISTS idx_api_keys_created_by ON control_plane.api_keys (created_by);
CREATE INDEX IF NOT EXISTS idx_api_keys_created_at ON control_plane.api_keys (created_at DESC, id DESC);

-- One-time links for the first operator, as SHA-256.
CREATE TABLE IF NOT EXISTS control_plane.setup_tokens (
    token_sha256 bytea PRIMARY KEY,
    expires_at timestamptz NOT NULL
);

-- Attempts to log in, by account and by address. Keys are hashed: people type passwords into the field for the name.
CREATE TABLE IF NOT EXISTS control_plane.login_attempts (
    key bytea PRIMARY KEY,
    attempts integer NOT NULL,
    window_ends_at timestamptz NOT NULL
);
CREATE INDEX IF NOT EXISTS idx_login_attempts_window ON control_plane.login_attempts (window_ends_at);

-- Events about people belong to no project, at most to an organisation.
ALTER TABLE control_plane.backup_history ALTER COLUMN project_id DROP NOT NULL;
ALTER TABLE control_plane.backup_history ADD COLUMN IF NOT EXISTS organization_id text;
