-- name: job
-- One job of one store ($2), or of any (NULL), with its post.
SELECT job.id, job.instance_id, job.status, job.source_type, job.source_id, job.created_at, job.started_at,
       job.finished_at, job.attempt - job.retries AS attempts, job.not_before, job.input_tokens, job.output_tokens, job.images, job.cost_nanousd,
       job.error_code, job.error, job.forwarded_at,
       post.title, post.slug, post.meta_description, post.html, post.image_url,
       outlook.reason, outlook.limited_by, outlook.queued, outlook.held, outlook.ahead, outlook.first_at,
       outlook.last_at,
       CASE WHEN job.status = 'PENDING' AND job.forwarded_at IS NULL THEN (
           SELECT count(*) FROM blog_generations AS other
            WHERE other.instance_id = job.instance_id AND other.status = 'PENDING' AND other.forwarded_at IS NULL
              AND (other.not_before IS NULL OR other.not_before <= now())
              AND (-other.priority, other.created_at, other.id) < (-job.priority, job.created_at, job.id)
       ) END AS before_it
  FROM blog_generations AS job
       LEFT JOIN blog_posts AS post ON post.job_id = job.id
       LEFT JOIN store_outlooks AS outlook ON outlook.instance_id = job.instance_id
 WHERE job.id = $1 AND ($2::text IS NULL OR job.instance_id = $2);

-- name: waiting
-- How many jobs wait in the queue of a store, and in all; and which of these ($2) have come so far, waiting or not.
SELECT count(*) FILTER (WHERE instance_id = $1) AS of_store, count(*) AS of_all,
       (SELECT coalesce(array_agg(id), '{}') FROM blog_generations WHERE id = ANY ($2::uuid[])) AS arrived
  FROM blog_generations WHERE status = 'PENDING' AND forwarded_at IS NULL;

-- name: budget
-- How a store's ($1) budget of this month stands, be there one or not: what is spent, what is reserved for the jobs that
-- run and not paid yet, how many wait, and what its jobs cost on average.
WITH jobs AS (
    SELECT coalesce(sum(greatest(job.estimate_nanousd + job.charged_nanousd - paid.nanousd, 0)), 0)::bigint AS reserved,
           count(*) FILTER (WHERE job.forwarded_at IS NULL) AS waiting
      FROM blog_generations AS job
           LEFT JOIN LATERAL (
               SELECT coalesce(sum(cost_nanousd), 0) AS nanousd FROM blog_steps WHERE job_id = job.id
           ) AS paid ON job.forwarded_at IS NOT NULL
     WHERE job.instance_id = $1 AND job.status IN ('PENDING', 'PROCESSING')
)
SELECT $1::text AS store, budget.monthly_nanousd, budget.warn_at, coalesce(ledger.spent_nanousd, 0) AS spent_nanousd,
       jobs.reserved AS reserved_nanousd, jobs.waiting, coalesce(store.mean_cost_nanousd, 0) AS mean_cost_nanousd
  FROM jobs
       LEFT JOIN store_budgets AS budget ON budget.instance_id = $1
       LEFT JOIN store_spend AS ledger
              ON ledger.instance_id = $1 AND ledger.month = date_trunc('month', now() AT TIME ZONE 'UTC')::date
       LEFT JOIN stores AS store ON store.instance_id = $1;

-- name: is_restricted
-- Whether PostgreSQL itself keeps this role to one store's rows: not an owner, nor one that nobody has restricted.
SELECT row_security_active('blog_generations') AND EXISTS (
    SELECT FROM pg_policy
     WHERE polrelid = 'blog_generations'::regclass AND NOT polpermissive
       AND (SELECT oid FROM pg_roles WHERE rolname = current_user) = ANY (polroles));

-- name: is_known
-- Whether a store was ever given a key.
SELECT EXISTS (SELECT FROM api_keys WHERE instance_id = $1);

-- name: set_budget
-- What a store may spend a month ($2), from which share on it is warned ($3), and who says so. The log may say it anew.
INSERT INTO store_budgets (instance_id, monthly_nanousd, warn_at, set_by) VALUES ($1, $2, $3, $4)
ON CONFLICT (instance_id) DO UPDATE
   SET monthly_nanousd = excluded.monthly_nanousd, warn_at = excluded.warn_at, set_by = excluded.set_by,
       changed_at = now(), warned_in = NULL, stopped_in = NULL;

-- name: remove_budget
-- A store may spend what it likes.
DELETE FROM store_budgets WHERE instance_id = $1;

-- name: steps
-- The steps of a job in the order in which they began.
SELECT step, state, attempt, call_started_at, finished_at, input_tokens, output_tokens, images, cost_nanousd, in_doubt
  FROM blog_steps WHERE job_id = $1 ORDER BY call_started_at, step;

-- name: list
-- A page of a store's jobs, the newest first, after a position ($3, $4), of one status or of any.
WITH page AS (
    SELECT * FROM blog_generations
     WHERE instance_id = $1 AND ($2::text IS NULL OR status = $2)
       AND ($3::timestamptz IS NULL OR (created_at, id) < ($3, $4::uuid))
     ORDER BY created_at DESC, id DESC LIMIT $5
), waiting AS (
    SELECT id, row_number() OVER (ORDER BY -priority, created_at, id) - 1 AS before_it
      FROM blog_generations
     WHERE instance_id = $1 AND status = 'PENDING' AND forwarded_at IS NULL
       AND (not_before IS NULL OR not_before <= now())
)
SELECT job.id, job.instance_id, job.status, job.source_type, job.source_id, job.created_at, job.started_at,
       job.finished_at, job.attempt - job.retries AS attempts, job.not_before, job.input_tokens, job.output_tokens, job.images, job.cost_nanousd,
       job.error_code, job.error, job.forwarded_at, waiting.before_it,
       outlook.reason, outlook.limited_by, outlook.queued, outlook.held, outlook.first_at, outlook.last_at
  FROM page AS job
       LEFT JOIN waiting USING (id)
       LEFT JOIN store_outlooks AS outlook ON outlook.instance_id = job.instance_id
 ORDER BY job.created_at DESC, job.id DESC;

-- name: cancel
-- Cancel a job that may be ($3), of one store ($2) or of any (NULL), with all that its steps have cost so far. The
-- lease stays as it is: until it ends, or its worker says so, a call may be under way, which a retry waits for.
UPDATE blog_generations AS job
   SET status = 'CANCELLED', finished_at = now(), intervened_at = now(), error_code = 'cancelled', error = $4,
       input_tokens = bill.input_tokens, output_tokens = bill.output_tokens, images = bill.images,
       cost_nanousd = bill.cost_nanousd
  FROM job_bill($1) AS bill
 WHERE job.id = $1 AND ($2::text IS NULL OR job.instance_id = $2) AND job.status = ANY ($3::text[])
RETURNING job.id, job.instance_id, job.status, job.attempt, job.intervened_at, job.created_at, job.started_at,
          job.worker, job.input_tokens, job.output_tokens, job.images, job.cost_nanousd, job.not_before, job.error,
          bill.in_doubt;

-- name: retry
-- Queue a job that has ended so ($3) once more. It keeps what it has paid for and gets all its tries back. It takes an
-- attempt's number, which fences off whoever still works on it. Not before its time, nor while a call may be under way:
-- the lease that says so stays, for the job may be cancelled and asked for again before it is claimed. With how it had
-- ended.
UPDATE blog_generations AS job
   SET status = 'PENDING', retries = retries + 1, attempt = attempt + 1, blameless = attempt + 1,
       intervened_at = now(), not_before = greatest(now(), lease_until, (request ->> 'run_at')::timestamptz),
       forwarded_at = NULL, started_at = NULL, finished_at = NULL, error_code = NULL, error = NULL
  FROM (SELECT id, status, finished_at, started_at FROM blog_generations WHERE id = $1 FOR UPDATE) AS before,
       job_bill($1) AS bill
 WHERE job.id = before.id AND ($2::text IS NULL OR job.instance_id = $2) AND job.status = ANY ($3::text[])
RETURNING job.id, job.instance_id, job.status, job.attempt, job.intervened_at, job.created_at, job.started_at,
          job.worker, job.input_tokens, job.output_tokens, job.images, job.cost_nanousd, job.not_before, job.error,
          bill.in_doubt, before.status AS former_status, before.finished_at AS former_at,
          before.started_at IS NOT NULL AS former_begun;
