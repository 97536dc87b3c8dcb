-- name: get_job
-- Returns one job of one store ($2), or of any store (NULL), with its post and its wait estimate.
SELECT job.id, job.instance_id AS store, job.status, job.source_type, job.source_id,
       job.created_at, job.started_at, job.finished_at, job.attempt - job.retries AS attempts,
       job.not_before, job.input_tokens, job.output_tokens, job.reasoning_tokens, job.images,
       job.cost_nanousd,
       job.error_code, job.error, job.forwarded_at,
       post.title, post.slug, post.meta_description, post.html, post.image_url,
       estimate.reason, estimate.limited_by, estimate.queued, estimate.held, estimate.ahead,
       estimate.first_at, estimate.last_at,
       CASE WHEN job.status = 'PENDING' AND job.forwarded_at IS NULL THEN (
           SELECT count(*) FROM blog_generations AS other
            WHERE other.instance_id = job.instance_id AND other.status = 'PENDING'
              AND other.forwarded_at IS NULL
              AND (other.not_before IS NULL OR other.not_before <= now())
              AND (-other.priority, other.created_at, other.id)
                  < (-job.priority, job.created_at, job.id)
       ) END AS jobs_before
  FROM blog_generations AS job
       LEFT JOIN blog_posts AS post ON post.job_id = job.id
       LEFT JOIN store_outlooks AS estimate ON estimate.instance_id = job.instance_id
 WHERE job.id = $1 AND ($2::text IS NULL OR job.instance_id = $2);

-- name: count_waiting
-- Counts the jobs that wait in the queue of one store ($1) and in all queues, and returns those of
-- the given ids ($2) that have a row, waiting or not.
SELECT count(*) FILTER (WHERE instance_id = $1) AS of_store, count(*) AS of_all,
       (SELECT coalesce(array_agg(id), '{}') FROM blog_generations WHERE id = ANY ($2::uuid[]))
           AS arrived
  FROM blog_generations WHERE status = 'PENDING' AND forwarded_at IS NULL;

-- name: is_restricted
-- Returns whether PostgreSQL limits this role to the rows of one store. It does not limit the
-- owner of the tables, nor a role without a restrictive policy.
SELECT row_security_active('blog_generations') AND EXISTS (
    SELECT FROM pg_policy
     WHERE polrelid = 'blog_generations'::regclass AND NOT polpermissive
       AND (SELECT oid FROM pg_roles WHERE rolname = current_user) = ANY (polroles));

-- name: list_steps
-- Returns the steps of a job in the order in which they began.
SELECT step, state, attempt, call_started_at, finished_at, input_tokens, output_tokens,
       reasoning_tokens, images, cost_nanousd, in_doubt
  FROM blog_steps WHERE job_id = $1 ORDER BY call_started_at, step;

-- name: list_jobs
-- Returns a page of a store's jobs, newest first, after a position ($3, $4); of one status, or of
-- any (NULL).
WITH page AS (
    SELECT * FROM blog_generations
     WHERE instance_id = $1 AND ($2::text IS NULL OR status = $2)
       AND ($3::timestamptz IS NULL OR (created_at, id) < ($3, $4::uuid))
     ORDER BY created_at DESC, id DESC LIMIT $5
), waiting AS (
    SELECT id, row_number() OVER (ORDER BY -priority, created_at, id) - 1 AS jobs_before
      FROM blog_generations
     WHERE instance_id = $1 AND status = 'PENDING' AND forwarded_at IS NULL
       AND (not_before IS NULL OR not_before <= now())
)
SELECT job.id, job.instance_id AS store, job.status, job.source_type, job.source_id,
       job.created_at, job.started_at, job.finished_at, job.attempt - job.retries AS attempts,
       job.not_before, job.input_tokens, job.output_tokens, job.reasoning_tokens, job.images,
       job.cost_nanousd,
       job.error_code, job.error, job.forwarded_at, waiting.jobs_before,
       estimate.reason, estimate.limited_by, estimate.queued, estimate.held, estimate.first_at,
       estimate.last_at
  FROM page AS job
       LEFT JOIN waiting USING (id)
       LEFT JOIN store_outlooks AS estimate ON estimate.instance_id = job.instance_id
 ORDER BY job.created_at DESC, job.id DESC;

-- name: cancel_job
-- Cancels a job of one store ($2), or of any store (NULL), if its status is one of $3, and sums up
-- what its steps have cost. The lease stays: until it expires, or until its worker reports the
-- end, a call may be running, and a retry waits for that call.
UPDATE blog_generations AS job
   SET status = 'CANCELLED', finished_at = now(), intervened_at = now(), error_code = 'cancelled',
       error = $4, input_tokens = bill.input_tokens, output_tokens = bill.output_tokens,
       reasoning_tokens = bill.reasoning_tokens, images = bill.images,
       cost_nanousd = bill.cost_nanousd
  FROM job_bill($1) AS bill
 WHERE job.id = $1 AND ($2::text IS NULL OR job.instance_id = $2) AND job.status = ANY ($3::text[])
RETURNING job.id, job.instance_id AS store, job.status, job.attempt, job.intervened_at,
          job.created_at, job.started_at, job.finished_at, job.worker, job.input_tokens,
          job.output_tokens, job.reasoning_tokens, job.images, job.cost_nanousd, job.not_before,
          job.error,
          bill.in_doubt;

-- name: retry_job
-- Queues an ended job again if its status is one of $3, and returns its previous outcome too. The
-- job keeps its paid steps and gets all its attempts back. It takes an attempt number, which
-- fences off a worker that still runs it. It starts no earlier than its run_at, and not while a
-- call may be running: the lease stays, because the job may be cancelled and retried again before
-- a worker claims it.
UPDATE blog_generations AS job
   SET status = 'PENDING', retries = retries + 1, attempt = attempt + 1, blameless = attempt + 1,
       intervened_at = now(),
       not_before = greatest(now(), lease_until, (request ->> 'run_at')::timestamptz),
       forwarded_at = NULL, started_at = NULL, finished_at = NULL, error_code = NULL, error = NULL
  FROM (SELECT id, status, finished_at, started_at FROM blog_generations WHERE id = $1 FOR UPDATE)
           AS before,
       job_bill($1) AS bill
 WHERE job.id = before.id AND ($2::text IS NULL OR job.instance_id = $2)
   AND job.status = ANY ($3::text[])
RETURNING job.id, job.instance_id AS store, job.status, job.attempt, job.intervened_at,
          job.created_at, job.started_at, job.finished_at, job.worker, job.input_tokens,
          job.output_tokens, job.reasoning_tokens, job.images, job.cost_nanousd, job.not_before,
          job.error,
          bill.in_doubt, before.status AS previous_status,
          before.finished_at AS previous_finished_at,
          before.started_at IS NOT NULL AS previous_started;
